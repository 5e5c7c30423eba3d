import { isAscii, isUtf8 } from "node:buffer";
import {
  MessageKind,
  type ServiceAccess,
  type ServiceDefinition,
  type SessionService,
  startedWith,
} from "../session/service.ts";
import { noUsage, type ServiceUsage } from "../session/usage.ts";

/** Questions of the message service. */
export type Question = "ECHO" | "REVERSE" | "TIME";

const questions = new Map<MessageKind, Question>([
  [MessageKind.ECHO, "ECHO"],
  [MessageKind.REVERSE, "REVERSE"],
  [MessageKind.TIME, "TIME"],
]);

/** The server's side: answers each message with one of the same id. */
export const messageService: ServiceDefinition = {
  name: "messages",
  kinds: [...questions.keys()],
  start: (access) => {
    const usage = noUsage();
    return {
      usage,
      message: (kind, id, body) =>
        access.send(MessageKind.ANSWER, id, countedAnswer(questions.get(kind)!, body, usage)),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
  },
};

/** As {@linkcode answer}, and counts it. */
export function countedAnswer(
  question: Question,
  body: Uint8Array,
  usage: ServiceUsage,
): Uint8Array {
  const answered = answer(question, body);
  usage.calls += 1;
  usage.received += body.length;
  usage.sent += answered.length;
  return answered;
}

/** The answer's body; it may be the question's own. */
export function answer(question: Question, body: Uint8Array): Uint8Array {
  switch (question) {
    case "ECHO":
      return body;
    case "REVERSE":
      return reverse(body);
    case "TIME":
      return new TextEncoder().encode(new Date().toISOString());
  }
}

/**
 * Text backwards by characters, so that it stays text; what is not UTF-8 backwards by bytes. Each
 * byte is looked at once: nothing that a client asks may keep the thread for long.
 */
export function reverse(body: Uint8Array): Uint8Array {
  if (isAscii(body) || !isUtf8(body)) return body.slice().reverse();
  const reversed = new Uint8Array(body.length);
  for (let start = 0; start < body.length;) {
    const end = start + characterBytes(body[start]!);
    const at = body.length - end;
    for (let byte = start; byte < end; byte++) reversed[at + byte - start] = body[byte]!;
    start = end;
  }
  return reversed;
}

/** Bytes of a character that begins with this one (RFC 3629, section 3). */
function characterBytes(first: number): number {
  if (first < 0x80) return 1;
  if (first < 0xe0) return 2;
  return first < 0xf0 ? 3 : 4;
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
    const access = startedWith(this.#access, this.name);
    const id = this.#lastId = (this.#lastId + 1) % 2 ** 32;
    const answer = Promise.withResolvers<Uint8Array>();
    access.send(MessageKind[question], id, body);
    this.#answers.set(id, answer);
    return answer.promise;
  }

  message(_kind: MessageKind, id: number, body: Uint8Array): void {
    this.#answers.get(id)?.resolve(body.slice());
    this.#answers.delete(id);
  }

  [Symbol.asyncDispose](): Promise<void> {
    for (const { reject } of this.#answers.values()) reject(this.#access!.signal.reason);
    this.#answers.clear();
    return Promise.resolve();
  }
}
