import { peerError } from "../control/exchange.ts";
import type { Frame } from "../control/frame.ts";
import { decode, type Message, type Service } from "../control/messages.ts";
import { delay } from "@std/async/delay";
import {
  LimitError,
  type LimitName,
  ProtocolError,
  RefusedError,
  TlsError,
  VerbsealError,
} from "../errors.ts";
import type { ControlConnection } from "./control_connection.ts";
import type { Limits } from "./limits.ts";
import { TokenBucket } from "./token_bucket.ts";

/** Frames that an honest peer has under way besides its REQUESTs: heartbeats, and what ends the session. */
const OTHER_FRAMES = 8;

/** Bytes of a frame for which as much of the rate is spent as for a frame: reading that many takes no longer. */
const BYTES_A_FRAME = 1024;

/** Times that a peer is asked for a sign of life within the idle timeout. */
const HEARTBEATS = 3;

export interface ControlLoopOptions {
  readonly connection: ControlConnection;
  /** Seconds of silence that end the session. */
  readonly idleSeconds: number;
  /** Answers REQUESTs; a side without it has none to answer. */
  readonly onRequest?: (service: Service, body: unknown) => Promise<unknown>;
  /** Takes frames about queue pairs; without it they are out of turn. */
  readonly onQueuePairFrame?: (frame: Frame) => void;
  /** What the peer may do; nobody limits a server. */
  readonly limits?: Pick<Limits, "requests" | "framesPerSecond">;
  /** Frames of all sessions that the peer has. */
  readonly clientRate?: TokenBucket;
  /** The peer was too fast, and its frames wait. */
  readonly onSlowed?: (limit: LimitName) => void;
}

/** Why a session ended in order. */
export type Farewell = "bye" | "closed";

/** Frames of an established session: heartbeats, requests and replies, until either side ends it. */
export class ControlLoop {
  readonly #options: ControlLoopOptions;
  readonly #replies = new Map<number, PromiseWithResolvers<unknown>>();
  readonly #working = new Set<Promise<void>>();
  /** Frames that the peer may send, and those of all its sessions. */
  readonly #rates: readonly TokenBucket[];
  readonly #ending = new AbortController();
  #lastHeard = performance.now();
  #lastId = 0;
  #ended: VerbsealError | undefined;

  constructor(options: ControlLoopOptions) {
    this.#options = options;
    const { limits, clientRate } = options;
    this.#rates = [
      ...limits ? [new TokenBucket(limits.framesPerSecond)] : [],
      ...clientRate ? [clientRate] : [],
    ];
  }

  /** Milliseconds since the peer's last frame. */
  get silence(): number {
    return performance.now() - this.#lastHeard;
  }

  /**
   * Runs until the session ends.
   *
   * @throws ProtocolError when the peer broke the protocol
   * @throws LimitError when it did not wait, having done more than it may
   * @throws RefusedError when the peer sent ERROR
   * @throws TlsError when the connection was lost, or the peer was silent for too long
   */
  async run(): Promise<Farewell> {
    const idle = Promise.withResolvers<never>();
    const heartbeat = setInterval(
      () => this.#beat(idle.reject),
      this.#options.idleSeconds * 1000 / (HEARTBEATS + 1),
    );
    try {
      const farewell = await Promise.race([this.#takeFrames(), idle.promise]);
      this.#rejectReplies(new TlsError("session_ended", "the other side ended the session"));
      return farewell;
    } catch (error) {
      this.#rejectReplies(error as VerbsealError);
      throw error;
    } finally {
      clearInterval(heartbeat);
      this.#ending.abort();
    }
  }

  /**
   * Asks the peer's service.
   *
   * @returns the body of the REPLY
   * @throws RefusedError when the service refused
   */
  async request(service: Service, body: unknown): Promise<unknown> {
    if (this.#ended) throw this.#ended;
    const id = this.#nextId();
    const reply = Promise.withResolvers<unknown>();
    this.#replies.set(id, reply);
    const sent = this.#options.connection.send({ name: "REQUEST", body: { id, service, body } });
    const [answer] = await Promise.all([reply.promise, sent]);
    return answer;
  }

  /** What is asked of the peer at present fails, whatever it still answers. */
  interrupt(why: VerbsealError): void {
    for (const { reject } of this.#replies.values()) reject(why);
  }

  /** Resolves when all REQUESTs of the peer are answered. */
  async worked(): Promise<void> {
    while (this.#working.size > 0) await Promise.allSettled(this.#working);
  }

  #nextId(): number {
    return this.#lastId = (this.#lastId + 1) % 2 ** 32;
  }

  async #takeFrames(): Promise<Farewell> {
    const { connection } = this.#options;
    for (let frame = await connection.next(); frame !== null; frame = await connection.next()) {
      this.#lastHeard = performance.now();
      const message = decode(frame);
      if (message.name === "BYE") return "bye";
      await this.#take(message, frame);
      const cost = Math.ceil(frame.bytes.length / BYTES_A_FRAME);
      for (const rate of this.#rates) {
        if (!rate.spend(cost)) await this.#slowDown(rate.wait);
      }
    }
    const failure = await connection.ended;
    if (failure) throw failure;
    return "closed";
  }

  /** An honest peer awaits answers, and can have no more under way than its requests. */
  async #slowDown(milliseconds: number): Promise<void> {
    const { connection, limits, onSlowed } = this.#options;
    if (connection.waiting > limits!.requests + OTHER_FRAMES) {
      throw new LimitError(
        "frame_rate",
        `more control frames than ${
          limits!.framesPerSecond
        } a second, or than all sessions of this ` +
          `client may send, and ${connection.waiting} wait`,
        "await answers",
      );
    }
    onSlowed?.("frame_rate");
    await delay(milliseconds, { signal: this.#ending.signal });
  }

  async #take(message: Message, frame: Frame): Promise<void> {
    const { connection, onQueuePairFrame } = this.#options;
    switch (message.name) {
      case "PING":
        return await connection.send({ name: "PONG", body: message.body });
      case "PONG":
        return;
      case "REQUEST":
        return this.#work(message);
      case "REPLY":
        return this.#settle(message);
      case "REQUEUE":
      case "QP":
      case "READY":
        if (onQueuePairFrame) return onQueuePairFrame(frame);
        break;
      case "ERROR":
        throw peerError(this.#options.onRequest ? "server" : "client", message.body);
    }
    throw new ProtocolError("out_of_turn", `${message.name} in an established session`);
  }

  #work({ body: { id, service, body } }: Message & { name: "REQUEST" }): void {
    const { onRequest, connection, limits } = this.#options;
    if (!onRequest) throw new ProtocolError("out_of_turn", "REQUEST to a client");
    if (this.#working.size >= (limits?.requests ?? Infinity)) {
      throw new LimitError("requests", `more than ${limits!.requests} requests at once`);
    }
    const work = Promise.try(() => onRequest(service, body))
      .then((result) => ({ id, body: result ?? null }), (error) => ({ id, error: asReply(error) }))
      .then((reply) => connection.send({ name: "REPLY", body: reply }))
      .catch(() => {})
      .finally(() => this.#working.delete(work));
    this.#working.add(work);
  }

  #settle({ body: { id, body, error } }: Message & { name: "REPLY" }): void {
    const reply = this.#replies.get(id);
    if (!reply) throw new ProtocolError("reply", `REPLY ${id} to no request`);
    this.#replies.delete(id);
    if (error) reply.reject(new RefusedError(error.code, error.text));
    else reply.resolve(body);
  }

  #rejectReplies(error: VerbsealError): void {
    this.#ended = error;
    for (const { reject } of this.#replies.values()) reject(error);
    this.#replies.clear();
  }

  #beat(end: (error: Error) => void): void {
    const { idleSeconds, connection } = this.#options;
    if (this.silence > idleSeconds * 1000) {
      end(new TlsError("idle", `the other side was silent for ${idleSeconds} seconds`));
    } else if (this.silence > idleSeconds * 1000 / (HEARTBEATS + 1)) {
      connection.send({ name: "PING", body: { id: this.#nextId() } }).catch(() => {});
    }
  }
}

function asReply(error: unknown): { code: string; text: string } {
  return error instanceof VerbsealError && error.code !== "internal"
    ? { code: error.code.slice(0, 64), text: error.message.slice(0, 1024) }
    : { code: "internal", text: "internal error" };
}
