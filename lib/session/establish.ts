import type { ClientExchange, ServerExchange, Step } from "../control/exchange.ts";
import type { Hello, QueuePairNumbers, Welcome } from "../control/messages.ts";
import type { AgreedPath } from "../control/path.ts";
import { errorText, TlsError, VerbsealError } from "../errors.ts";
import type { PsnSource } from "../security/psn.ts";
import { logger } from "../telemetry/log.ts";
import type { ControlConnection } from "./control_connection.ts";
import type { ConnectOrder, DataPath } from "./data_path.ts";

const log = logger("session");

/** What was agreed, for logs and for `--json`. PSNs are those of the first packets. */
export interface Established {
  readonly session: string;
  readonly local: QueuePairNumbers;
  readonly remote: QueuePairNumbers;
  readonly path: AgreedPath;
  readonly welcome: Welcome;
}

/**
 * A way to bring a queue pair up: gives what has to be disposed after the session.
 *
 * @param cmToken shows the peer's connection manager who asks
 */
export type ConnectQueuePair = (
  dataPath: DataPath,
  order: ConnectOrder,
  cmToken: Uint8Array,
) => Promise<Disposable>;

/** `--connect tls`: all that is needed was agreed in TLS. */
export const connectByTls: ConnectQueuePair = async (dataPath, order) => {
  await dataPath.connect(order);
  return { [Symbol.dispose]() {} };
};

/** An established session's parts; the caller's from then on. */
export interface Establishment {
  readonly agreed: Established;
  readonly dataPath: DataPath;
  /** Of the connection manager, if it was used: dispose it after the data path. */
  readonly link: Disposable;
}

/** What one side of the exchange works with. */
export interface EstablishOptions {
  readonly exchange: ClientExchange | ServerExchange;
  readonly connection: ControlConnection;
  readonly psns: PsnSource;
  /** Makes the data path, once the session is admitted. */
  readonly openDataPath: (welcome: Welcome) => DataPath;
  readonly connectQueuePair: (welcome: Welcome) => ConnectQueuePair;
  /** Server: decides on a HELLO. */
  readonly admit?: (hello: Hello) => Pick<Welcome, "choices" | "limits">;
}

/** The exchange's driver: does what the state machine asks for, until the session is established. */
class Driver {
  dataPath: DataPath | undefined;
  link: Disposable | undefined;
  #welcome: Welcome | undefined;
  #agreed: Established | undefined;

  constructor(private readonly options: EstablishOptions) {}

  async run(): Promise<Established> {
    const { exchange, connection } = this.options;
    const steps: Step[] = "start" in exchange ? exchange.start() : [];
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
    return this.#agreed!;
  }

  /** Frees what there is; the link also when the data path cannot be closed. */
  async release(): Promise<void> {
    try {
      const final = await this.dataPath?.close();
      if (final) this.options.psns.retire(final.qpn, final.sqPsn);
    } finally {
      this.link?.[Symbol.dispose]();
    }
  }

  async #take(step: Step): Promise<Step[]> {
    const { exchange, connection, psns } = this.options;
    switch (step.do) {
      case "send":
        await connection.sendFrame(step.frame);
        if (step.frame.name === "SECRET") step.frame.bytes.fill(0);
        return [];
      case "admit":
        return (exchange as ServerExchange).admitted(this.options.admit!(step.hello));
      case "allocate": {
        this.#welcome = step.welcome;
        this.dataPath = this.options.openDataPath(step.welcome);
        const queuePair = await this.dataPath.allocate();
        return exchange.allocated({ ...queuePair, epoch: 0, psn: psns.draw(queuePair.qpn) });
      }
      case "connect":
        await this.#connect(step);
        return exchange.connected();
      case "prove":
        await this.#unlessInterrupted(this.dataPath!.prove(step.own, step.expected));
        return exchange.proved();
      case "established":
        return [];
    }
  }

  async #connect(step: Step & { do: "connect" }): Promise<void> {
    const { local, remote, path, cmToken } = step;
    const connect = this.options.connectQueuePair(this.#welcome!);
    const connecting = connect(this.dataPath!, { local, remote, path }, cmToken);
    try {
      this.link = await this.#unlessInterrupted(connecting);
    } catch (error) {
      connecting.then((late) => late[Symbol.dispose](), () => {});
      throw error;
    }
    this.#agreed = {
      session: this.#welcome!.session,
      local,
      remote,
      path,
      welcome: this.#welcome!,
    };
  }

  /** Awaits work on the queue pair, or the connection's end if that comes first: nobody takes frames meanwhile. */
  async #unlessInterrupted<T>(work: Promise<T>): Promise<T> {
    const { connection, exchange } = this.options;
    const done = await Promise.race([
      work.then((value) => ({ value })),
      connection.ended.then(() => undefined),
    ]);
    if (done) return done.value;
    for (let frame = await connection.next(); frame !== null; frame = await connection.next()) {
      // An ERROR tells more than the end of the connection; receive() throws it.
      if (frame.name === "ERROR") exchange.receive(frame);
    }
    throw await hungUp(connection);
  }
}

async function hungUp(connection: ControlConnection): Promise<VerbsealError> {
  return await connection.ended ??
    new TlsError("hung_up", "the other side closed the connection during the exchange");
}

/**
 * Runs the exchange to its end.
 *
 * @throws VerbsealError naming why it failed; the data path is closed then, and the peer was told
 */
export async function establish(options: EstablishOptions): Promise<Establishment> {
  const driver = new Driver(options);
  try {
    const agreed = await driver.run();
    return { agreed, dataPath: driver.dataPath!, link: driver.link! };
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
