import { RdmaError } from "../errors.ts";
import {
  MessageKind,
  type ServiceAccess,
  type ServiceDefinition,
  type SessionService,
} from "../session/service.ts";

/** Questions of the message service. */
export type Question = "ECHO" | "REVERSE" | "TIME";

const kinds = [MessageKind.ECHO, MessageKind.REVERSE, MessageKind.TIME];

/** The server's side: answers each message with one of the same id. */
export const messageService: ServiceDefinition = {
  name: "messages",
  kinds,
  start: (access) => ({
    message: (kind, id, body) => access.send(MessageKind.ANSWER, id, answer(kind, body)),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  }),
};

function answer(kind: MessageKind, body: Uint8Array): Uint8Array {
  switch (kind) {
    case MessageKind.REVERSE:
      return reverse(body);
    case MessageKind.TIME:
      return new TextEncoder().encode(new Date().toISOString());
    default:
      return body;
  }
}

/** Text backwards by characters, so that it stays text; what is not UTF-8 backwards by bytes. */
export function reverse(body: Uint8Array): Uint8Array {
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(body);
    return new TextEncoder().encode([...text].reverse().join(""));
  } catch {
    return body.toReversed();
  }
}

/** The client's side of the message service. */
export class MessageClient implements ServiceDefinition, SessionService {
  readonly name = "messages";
  readonly kinds = [MessageKind.ANSWER];
  readonly #answers = new Map<number, PromiseWithResolvers<Uint8Array>>();
  #access: ServiceAccess | undefined;
  #lastId = 0;

  start(access: ServiceAccess): this {
    this.#access = access;
    return this;
  }

  /**
   * Sends a message and gives the answer.
   *
   * @param body up to the session's limit, at least 1 MiB unless the server says otherwise
   */
  ask(question: Question, body: Uint8Array): Promise<Uint8Array> {
    if (!this.#access) throw new RdmaError("no_session", "there is no session yet");
    const id = this.#lastId = (this.#lastId + 1) % 2 ** 32;
    const answer = Promise.withResolvers<Uint8Array>();
    this.#access.send(MessageKind[question], id, body);
    this.#answers.set(id, answer);
    return answer.promise;
  }

  message(_kind: MessageKind, id: number, body: Uint8Array): void {
    this.#answers.get(id)?.resolve(body.slice());
    this.#answers.delete(id);
  }

  [Symbol.asyncDispose](): Promise<void> {
    const ended = new RdmaError("session_ended", "the session has ended");
    for (const { reject } of this.#answers.values()) reject(ended);
    this.#answers.clear();
    return Promise.resolve();
  }
}
