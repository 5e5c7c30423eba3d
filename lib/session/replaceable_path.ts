import type { ClientExchange, ServerExchange, Step } from "../control/exchange.ts";
import type { Direction } from "../control/keys.ts";
import type { Frame } from "../control/frame.ts";
import type { Service } from "../control/messages.ts";
import {
  LimitError,
  ProtocolError,
  QueuePairError,
  RdmaError,
  type VerbsealError,
} from "../errors.ts";
import { psnText } from "../security/psn.ts";
import { wipeKeys } from "../security/seal.ts";
import { logger } from "../telemetry/log.ts";
import type { ControlConnection } from "./control_connection.ts";
import type { RdmaEstablished, SessionPath, SessionPathListener } from "./session_path.ts";
import type { SessionQueuePair } from "./session_queue_pair.ts";
import type { SessionUsage } from "./usage.ts";

const log = logger("session");

const MINUTE = 60_000;

/** Frames that wait to be taken: in good order there are REQUEUE, QP and READY of an epoch or two. */
const MAX_WAITING = 8;

export interface ReplaceablePathOptions {
  /** In ESTABLISHED; the path's from then on. */
  readonly exchange: ClientExchange | ServerExchange;
  readonly connection: ControlConnection;
  /** The path's from then on. */
  readonly queuePair: SessionQueuePair;
  /** Seconds that a replacement may take. */
  readonly seconds: number;
  /** Replacements at most. */
  readonly perMinute: number;
  /** Resolves when another queue pair may be made; rejects when the signal aborts. */
  readonly turn?: ((signal: AbortSignal) => Promise<void>) | undefined;
}

/** A queue pair that is being replaced. */
interface Replacement {
  readonly by: Direction;
  readonly reason: string;
  /** What is told to those whose work has ended with the former one. */
  readonly why: QueuePairError;
  readonly started: number;
  readonly deadline: ReturnType<typeof setTimeout>;
}

/**
 * The data path of a session over queue pairs. A queue pair that fails, at either side, does not end
 * the session: both sides close all that belongs to it and make another one, with other numbers and
 * other keys, over the TLS connection, which carries heartbeats meanwhile.
 */
export class ReplaceablePath implements SessionPath {
  readonly #options: ReplaceablePathOptions;
  readonly #waiting: Frame[] = [];
  /** When queue pairs were replaced, within the last minute. */
  readonly #times: number[] = [];
  readonly #failed = Promise.withResolvers<never>();
  #arrival = Promise.withResolvers<void>();
  /** Resolves when the queue pair of the next epoch is established. */
  #established = Promise.withResolvers<void>();
  #epoch = 0;
  #replacement: Replacement | undefined;
  /** What this side found last. */
  #found: QueuePairError | undefined;
  #listener: SessionPathListener = {};
  readonly #closing = new AbortController();

  constructor(options: ReplaceablePathOptions) {
    this.#options = options;
    this.#failed.promise.catch(() => {}); // run() reports it
  }

  get agreed(): RdmaEstablished {
    return this.#options.queuePair.agreed;
  }

  get interruption(): QueuePairError | undefined {
    return this.#replacement?.why;
  }

  get epoch(): number {
    return this.#epoch;
  }

  async after(epoch: number): Promise<void> {
    while (this.#epoch <= epoch) {
      await Promise.race([this.#established.promise, this.#failed.promise]);
    }
  }

  async request(service: Service, body: unknown): Promise<unknown> {
    const { exchange, queuePair } = this.#options;
    const { epoch, state } = exchange;
    // The peer may be through already; what it has asked before that is no more.
    const isThrough = state === "PROVING" || state === "ESTABLISHED";
    if (this.interruption && isThrough) await this.after(epoch - 1);
    if (this.interruption) throw this.interruption;
    if (exchange.epoch !== epoch) throw failed("the queue pair failed once more");
    try {
      return await queuePair.path.request(service, body);
    } catch (error) {
      // That the queue pair failed is told by REQUEUE first.
      if (error instanceof QueuePairError) await this.after(epoch);
      throw error;
    }
  }

  take(frame: Frame): void {
    if (this.#waiting.length >= MAX_WAITING) {
      throw new ProtocolError("requeue", `more than ${MAX_WAITING} frames about queue pairs wait`);
    }
    this.#waiting.push(frame);
    this.#arrival.resolve();
    if (frame.name !== "REQUEUE") return;
    // At once: the next frame may be the peer's refusal of what was asked before.
    const { peer } = this.#options.exchange;
    this.#listener.interrupted?.(failed(`the ${peer}'s queue pair failed`));
  }

  run(listener: SessionPathListener): Promise<never> {
    this.#listener = listener;
    this.#keepGoing().catch(this.#failed.reject);
    return this.#failed.promise;
  }

  async close(reason?: string): Promise<SessionUsage> {
    const { queuePair, exchange } = this.#options;
    this.#closing.abort(sessionEnded());
    this.#failed.reject(sessionEnded());
    this.#arrival.resolve();
    clearTimeout(this.#replacement?.deadline);
    try {
      await queuePair.close(reason);
      return queuePair.usage;
    } finally {
      exchange[Symbol.dispose]();
    }
  }

  async #keepGoing(): Promise<never> {
    let steps: Step[] = [];
    try {
      for (;;) {
        try {
          const step = steps.shift();
          steps.push(...step ? await this.#perform(step) : await this.#next());
        } catch (error) {
          steps.forEach(forget);
          steps = this.#requeue(error);
        }
        this.#closing.signal.throwIfAborted();
      }
    } finally {
      steps.forEach(forget);
    }
  }

  async #perform(step: Step): Promise<Step[]> {
    const { exchange, queuePair, connection } = this.#options;
    switch (step.do) {
      case "send":
        connection.sendFrame(step.frame).catch(() => {}); // who reads frames learns of it
        return [];
      case "discard":
        this.#begin(step);
        await queuePair.close(step.reason);
        return [];
      case "allocate":
        await this.#options.turn?.(this.#closing.signal);
        // What is allocated after close() nobody would free.
        this.#closing.signal.throwIfAborted();
        return exchange.allocated(await queuePair.allocate(step, exchange.epoch));
      case "connect":
        await queuePair.connect(step);
        return exchange.connected();
      case "prove":
        return await this.#prove(step);
      case "established":
        this.#finish();
        return [];
      default:
        throw new Error(`${step.do} in an established session`);
    }
  }

  /** A peer that says something instead of proving itself has found that the queue pair failed. */
  async #prove(step: Step & { do: "prove" }): Promise<Step[]> {
    const { exchange, queuePair } = this.#options;
    const proving = queuePair.prove(step).then(() => true);
    proving.catch(() => {}); // it ends with the path, if nobody waits for it
    const proved = await Promise.race([proving, this.#arrival.promise.then(() => false)]);
    return proved ? exchange.proved() : this.#take();
  }

  /** Waits for what the peer says; throws the queue pair's failure if that comes first. */
  async #next(): Promise<Step[]> {
    const { path } = this.#options.queuePair;
    const failure = await Promise.race([this.#arrival.promise, path.failure]);
    if (failure) throw failure;
    return this.#take();
  }

  #take(): Step[] {
    this.#closing.signal.throwIfAborted();
    const frame = this.#waiting.shift()!;
    if (this.#waiting.length === 0) this.#arrival = Promise.withResolvers();
    return this.#options.exchange.receive(frame);
  }

  /** @throws what is no failure of a queue pair */
  #requeue(error: unknown): Step[] {
    if (this.#closing.signal.aborted || !(error instanceof QueuePairError)) throw error;
    this.#found = error;
    return this.#options.exchange.requeue(error.code);
  }

  #begin({ by, reason }: Step & { do: "discard" }): void {
    const { exchange, seconds } = this.#options;
    const why = by === exchange.side
      ? this.#found!
      : failed(`the ${exchange.peer}'s queue pair failed: ${reason}`);
    this.#countOne(why);
    clearTimeout(this.#replacement?.deadline);
    const late = `${why.message}; no other took its place within ${seconds} seconds`;
    this.#replacement = {
      ...{ by, reason, why },
      started: this.#replacement?.started ?? performance.now(),
      deadline: setTimeout(
        () => this.#failed.reject(new RdmaError(why.code, late, why.remedy)),
        seconds * 1000,
      ),
    };
    this.#listener.interrupted?.(why);
  }

  #finish(): void {
    const { by, reason, started, deadline } = this.#replacement!;
    clearTimeout(deadline);
    this.#replacement = undefined;
    this.#epoch = this.#options.exchange.epoch;
    this.#established.resolve();
    this.#established = Promise.withResolvers();
    const { session, local, remote } = this.agreed;
    const facts = {
      ...{ epoch: this.#epoch, by, reason },
      seconds: Number(((performance.now() - started) / 1000).toFixed(3)),
      ...{ qpn: local.qpn, psn: psnText(local.psn) },
      ...{ peerQpn: remote.qpn, peerPsn: psnText(remote.psn) },
    };
    log.warning("queue pair replaced", { session, ...facts });
    this.#listener.replaced?.(facts);
  }

  /** @throws LimitError when there were too many within a minute */
  #countOne(why: QueuePairError): void {
    const now = performance.now();
    const times = this.#times;
    const { perMinute } = this.#options;
    while (times.length > 0 && times[0]! <= now - MINUTE) times.shift();
    if (times.push(now) <= perMinute) return;
    throw new LimitError(
      "requeues",
      `the queue pair failed more than ${perMinute} times within a minute: ${why.message}`,
      "someone may be disturbing the RDMA network",
    );
  }
}

/** A step that is not taken leaves no keys behind. */
function forget(step: Step): void {
  if (step.do === "connect" && step.seal) wipeKeys(step.seal);
}

function failed(message: string): QueuePairError {
  return new QueuePairError("queue_pair_failed", message);
}

function sessionEnded(): VerbsealError {
  return new RdmaError("session_ended", "the session has ended");
}
