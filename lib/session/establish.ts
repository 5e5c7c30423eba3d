import type { ClientExchange, ServerExchange, Step } from "../control/exchange.ts";
import type { JoinTokens } from "../control/join.ts";
import type { Hello, QueuePairNumbers, RdmaChoices, Welcome } from "../control/messages.ts";
import type { AgreedPath } from "../control/path.ts";
import { asVerbsealError, errorText, TlsError, VerbsealError } from "../errors.ts";
import type { PsnSource } from "../security/psn.ts";
import { logger } from "../telemetry/log.ts";
import type { ControlConnection } from "./control_connection.ts";
import { type HandshakeFacts, kernelText, type KernelTls } from "../tls/connection.ts";
import type { DataConnection } from "../tls/data_connection.ts";
import type { ConnectOrder, DataPath, QueuePairPath, StreamPath } from "./data_path.ts";

const log = logger("session");

/** How long this side may still have to do when its peer has left, in milliseconds. */
const FAREWELL_MILLISECONDS = 1000;

/** What was agreed, for logs and for `--json`. */
export type Established = RdmaEstablished | StreamEstablished;

/** What a log line tells of a data connection. */
export function streamFields({ kernel, handshake }: StreamEstablished): Record<string, unknown> {
  const { version, cipher } = handshake;
  return { transport: "ktls", ktls: kernelText(kernel), tls: version, cipher };
}

/** PSNs are those of the first packets. */
export interface RdmaEstablished {
  readonly transport: "rdma";
  readonly session: string;
  readonly local: QueuePairNumbers;
  readonly remote: QueuePairNumbers;
  readonly path: AgreedPath;
  readonly choices: RdmaChoices;
  readonly welcome: Welcome;
}

/** A session over a data connection has no numbers of queue pairs. */
export interface StreamEstablished {
  readonly transport: "ktls";
  readonly session: string;
  /** Which records the kernel seals and opens at this end. */
  readonly kernel: KernelTls;
  /** What the first data connection's handshake agreed on. */
  readonly handshake: HandshakeFacts;
  /** Of that connection, as for TlsConnection. */
  readonly peerCertificates: readonly Uint8Array[];
  readonly welcome: Welcome;
}

/**
 * A way to bring a queue pair up: gives what has to be disposed after the session.
 *
 * @param cmToken shows the peer's connection manager who asks
 */
export type ConnectQueuePair = (
  dataPath: QueuePairPath,
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
  /** What stays open beside the data path: dispose it after the data path. */
  readonly link: Disposable;
  /** Resolves when the data path has ended, or what it needs to go on. */
  readonly failure: Promise<VerbsealError>;
}

/** What sessions over queue pairs need. */
export interface QueuePairTransport {
  readonly psns: PsnSource;
  /** Makes the data path, once the session is admitted. */
  readonly openDataPath: (welcome: Welcome, choices: RdmaChoices) => QueuePairPath;
  readonly connectQueuePair: (choices: RdmaChoices) => ConnectQueuePair;
}

/** What sessions over data connections need. */
export interface StreamTransport {
  /** Makes the data path, once its connection is there. */
  readonly openDataPath: (welcome: Welcome) => StreamPath;
  /** Data connections of this session are let in, or made, from now on. */
  readonly link: (welcome: Welcome, tokens: JoinTokens) => StreamLink;
}

/** Where the data connections of a session come from. Disposing it ends that, and wipes the tokens. */
export interface StreamLink extends Disposable {
  /**
   * The data connection of the next epoch, both tokens compared.
   *
   * @throws VerbsealError when it cannot be made, or the link was disposed
   */
  next(): Promise<DataConnection>;
}

/** What one side of the exchange works with; a transport that is not there is not offered. */
export interface EstablishOptions {
  readonly exchange: ClientExchange | ServerExchange;
  readonly connection: ControlConnection;
  readonly queuePairs?: QueuePairTransport | undefined;
  readonly streams?: StreamTransport | undefined;
  /** Server: decides on a HELLO. */
  readonly admit?: (hello: Hello) => Promise<Pick<Welcome, "choices" | "limits">>;
}

/** The exchange's driver: does what the state machine asks for, until the session is established. */
class Driver {
  dataPath: DataPath | undefined;
  link: Disposable | undefined;
  #allocated: { path: QueuePairPath; welcome: Welcome; choices: RdmaChoices } | undefined;
  #linked: { link: StreamLink; welcome: Welcome } | undefined;
  #agreed: Established | undefined;
  #renewal: Promise<never> | undefined;

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

  /** Resolves when the data path has ended, or its connection cannot be replaced. */
  get failure(): Promise<VerbsealError> {
    const failures = [this.dataPath!.failure];
    const renewal = this.#renewal?.catch((error) => asVerbsealError("renewal", error));
    return Promise.race(renewal ? [...failures, renewal] : failures);
  }

  /** Frees what there is; the link also when the data path cannot be closed. */
  async release(): Promise<void> {
    try {
      const final = await this.dataPath?.close();
      if (final) this.options.queuePairs!.psns.retire(final.qpn, final.sqPsn);
    } finally {
      this.link?.[Symbol.dispose]();
    }
  }

  async #take(step: Step): Promise<Step[]> {
    const { exchange, connection } = this.options;
    switch (step.do) {
      case "send":
        await connection.sendFrame(step.frame);
        if (step.frame.name === "SECRET") step.frame.bytes.fill(0);
        return [];
      case "admit":
        return (exchange as ServerExchange).admitted(await this.options.admit!(step.hello));
      case "allocate":
        return exchange.allocated(await this.#allocate(step));
      case "connect":
        await this.#connect(step);
        return exchange.connected();
      case "prove":
        await this.#unlessInterrupted(this.#allocated!.path.prove(step.own, step.expected));
        return exchange.proved();
      case "link": {
        const { welcome, tokens } = step;
        this.#linked = { welcome, link: this.options.streams!.link(welcome, tokens) };
        this.link = this.#linked.link;
        return [];
      }
      case "join":
        await this.#join();
        return exchange.joined();
      case "established":
        return [];
    }
  }

  async #allocate({ welcome, choices }: Step & { do: "allocate" }): Promise<QueuePairNumbers> {
    const { psns, openDataPath } = this.options.queuePairs!;
    const path = this.dataPath = openDataPath(welcome, choices);
    this.#allocated = { path, welcome, choices };
    const queuePair = await path.allocate();
    return { ...queuePair, epoch: 0, psn: psns.draw(queuePair.qpn) };
  }

  async #connect({ local, remote, path, cmToken }: Step & { do: "connect" }): Promise<void> {
    const { path: dataPath, welcome, choices } = this.#allocated!;
    const connect = this.options.queuePairs!.connectQueuePair(choices);
    const connecting = connect(dataPath, { local, remote, path }, cmToken);
    try {
      this.link = await this.#unlessInterrupted(connecting);
    } catch (error) {
      connecting.then((late) => late[Symbol.dispose](), () => {});
      throw error;
    }
    const { session } = welcome;
    this.#agreed = { transport: "rdma", session, local, remote, path, choices, welcome };
  }

  async #join(): Promise<void> {
    const { link, welcome } = this.#linked!;
    const path = this.options.streams!.openDataPath(welcome);
    this.dataPath = path;
    const joining = link.next();
    try {
      const connection = await this.#unlessInterrupted(joining);
      const { handshake, peerCertificates } = connection;
      const kernel = await path.use(connection);
      const { session } = welcome;
      this.#agreed = {
        ...{ transport: "ktls", session, welcome },
        ...{ kernel, handshake, peerCertificates },
      };
      this.#renewal = renew(path, link);
      this.#renewal.catch(() => {}); // of interest only while the session lasts
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

/** Replaces a path's connection whenever that is due; rejects when it cannot, or the link is disposed. */
async function renew(path: StreamPath, link: StreamLink): Promise<never> {
  for (let epoch = 1;; epoch++) {
    await path.renewalDue?.();
    await path.use(await link.next());
    log.debug("data connection replaced", { epoch });
  }
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
    return { agreed, dataPath: driver.dataPath!, link: driver.link!, failure: driver.failure };
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
