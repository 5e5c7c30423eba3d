import type { ClientExchange, ServerExchange, Step } from "../control/exchange.ts";
import type { Hello, Welcome } from "../control/messages.ts";
import { errorText, TlsError, VerbsealError } from "../errors.ts";
import { wipeKeys } from "../security/seal.ts";
import { logger } from "../telemetry/log.ts";
import type { ControlConnection } from "./control_connection.ts";
import type { StreamPath } from "./data_path.ts";
import { ReplaceablePath, type ReplaceablePathOptions } from "./replaceable_path.ts";
import type { SessionPath } from "./session_path.ts";
import { type QueuePairTransport, SessionQueuePair } from "./session_queue_pair.ts";
import type { StreamLink, StreamTransport } from "./stream_link.ts";
import { StreamSessionPath } from "./stream_session_path.ts";

const log = logger("session");

/** How long this side may still have to do when its peer has left, in milliseconds. */
const FAREWELL_MILLISECONDS = 1000;

/** What one side of the exchange works with; a transport that is not there is not offered. */
export interface EstablishOptions {
  readonly exchange: ClientExchange | ServerExchange;
  readonly connection: ControlConnection;
  readonly queuePairs?: QueuePairTransport | undefined;
  readonly streams?: StreamTransport | undefined;
  /** Seconds that another queue pair may take to replace one that failed. */
  readonly replacementSeconds: number;
  /** Times a minute that one may take another's place; a client leaves that to its server. */
  readonly replacementsPerMinute?: number;
  /** Resolves when one may be made, at a server. */
  readonly replacementTurn?: ReplaceablePathOptions["turn"];
  /** Server: decides on a HELLO. */
  readonly admit?: (hello: Hello) => Promise<Pick<Welcome, "choices" | "limits">>;
}

/** The exchange's driver: does what the state machine asks for, until the session is established. */
class Driver {
  readonly #queuePair: SessionQueuePair | undefined;
  #linked: { link: StreamLink; welcome: Welcome } | undefined;
  #stream: StreamSessionPath | undefined;
  #streamPath: StreamPath | undefined;

  constructor(private readonly options: EstablishOptions) {
    this.#queuePair = options.queuePairs && new SessionQueuePair(options.queuePairs);
  }

  async run(): Promise<SessionPath> {
    const { exchange, connection, replacementSeconds: seconds } = this.options;
    const { replacementsPerMinute: perMinute = Infinity, replacementTurn: turn } = this.options;
    const steps: Step[] = "start" in exchange ? exchange.start() : [];
    try {
      while (exchange.state !== "ESTABLISHED") {
        const step = steps.shift();
        if (step) {
          steps.push(...await this.#take(step));
          continue;
        }
        const frame = await connection.next();
        if (frame === null) throw await hungUp(connection);
        steps.push(...exchange.receive(frame));
      }
    } finally {
      steps.forEach(wipe);
    }
    const queuePair = this.#queuePair!;
    return this.#stream ??
      new ReplaceablePath({ exchange, connection, queuePair, seconds, perMinute, turn });
  }

  /** Frees what there is; the link also when the data path cannot be closed. */
  async release(): Promise<void> {
    try {
      await Promise.all([this.#queuePair?.close(), this.#streamPath?.close()]);
    } finally {
      this.#linked?.link[Symbol.dispose]();
      this.options.exchange[Symbol.dispose]();
    }
  }

  async #take(step: Step): Promise<Step[]> {
    const { exchange, connection } = this.options;
    switch (step.do) {
      case "send":
        try {
          await connection.sendFrame(step.frame);
        } finally {
          wipe(step);
        }
        return [];
      case "admit":
        return (exchange as ServerExchange).admitted(await this.options.admit!(step.hello));
      case "allocate":
        return exchange.allocated(await this.#queuePair!.allocate(step, exchange.epoch));
      case "connect":
        await this.#unlessInterrupted(this.#queuePair!.connect(step));
        return exchange.connected();
      case "prove":
        await this.#unlessInterrupted(this.#queuePair!.prove(step));
        return exchange.proved();
      case "link": {
        const { welcome, tokens } = step;
        this.#linked = { welcome, link: this.options.streams!.link(welcome, tokens) };
        return [];
      }
      case "join":
        await this.#join();
        return exchange.joined();
      case "discard":
      case "established":
        return [];
    }
  }

  async #join(): Promise<void> {
    const { link, welcome } = this.#linked!;
    const path = this.#streamPath = this.options.streams!.openDataPath(welcome);
    const joining = link.next();
    try {
      const connection = await this.#unlessInterrupted(joining);
      const { handshake, peerCertificates } = connection;
      const kernel = await path.use(connection);
      const { session } = welcome;
      this.#stream = new StreamSessionPath(path, link, {
        ...{ transport: "ktls", session, welcome },
        ...{ kernel, handshake, peerCertificates },
      });
    } catch (error) {
      joining.then((late) => late.abort(), () => {});
      throw error;
    }
  }

  /** Awaits work on what carries data, or the connection's end if that comes first: nobody takes frames meanwhile. */
  async #unlessInterrupted<T>(work: Promise<T>): Promise<T> {
    const { connection, exchange } = this.options;
    const done = await within(connection.ended, work) ??
      // A peer that says goodbye has done all of the exchange, and this side is about to.
      (connection.holds("BYE") ? await soon(work) : undefined);
    if (done) return done.value;
    for (let frame = await connection.next(); frame !== null; frame = await connection.next()) {
      // An ERROR tells more than the end of the connection; receive() throws it.
      if (frame.name === "ERROR") exchange.receive(frame);
    }
    throw await hungUp(connection);
  }
}

/** Wipes what is secret in a step that was done, or will not be. */
function wipe(step: Step): void {
  if (step.do === "send" && step.frame.name === "SECRET") step.frame.bytes.fill(0);
  if (step.do === "connect" && step.seal) wipeKeys(step.seal);
}

/** What `work` gives, unless `end` comes first. */
function within<T>(end: Promise<unknown>, work: Promise<T>): Promise<{ value: T } | undefined> {
  return Promise.race([work.then((value) => ({ value })), end.then(() => undefined)]);
}

async function soon<T>(work: Promise<T>): Promise<{ value: T } | undefined> {
  const { promise: late, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, FAREWELL_MILLISECONDS);
  try {
    return await within(late, work);
  } finally {
    clearTimeout(timer);
  }
}

/** What the end of a connection within the exchange is. */
export async function hungUp(connection: ControlConnection): Promise<VerbsealError> {
  return await connection.ended ??
    new TlsError("hung_up", "the other side closed the connection during the exchange");
}

/**
 * Runs the exchange to its end.
 *
 * @throws VerbsealError naming why it failed; the data path is closed then, and the peer was told
 */
export async function establish(options: EstablishOptions): Promise<SessionPath> {
  const driver = new Driver(options);
  try {
    return await driver.run();
  } catch (error) {
    await driver.release().catch((failure) =>
      log.error("resources of a session could not be freed", { error: errorText(failure) })
    );
    throw error;
  }
}

/** The ERROR message that tells the peer about a failure: its code, and its text unless it is internal. */
export function errorMessage(error: unknown) {
  const { code, message } = error instanceof VerbsealError && error.code !== "internal"
    ? error
    : { code: "internal", message: "internal error" };
  return {
    name: "ERROR" as const,
    body: { code: code.slice(0, 64), text: message.slice(0, 1024) },
  };
}
