import { ClientExchange } from "../control/exchange.ts";
import type { Connect, Offers, Service, Transport, Welcome } from "../control/messages.ts";
import { RdmaError, type VerbsealError } from "../errors.ts";
import { PsnSource } from "../security/psn.ts";
import type { TlsConnection } from "../tls/connection.ts";
import { ControlConnection } from "./control_connection.ts";
import { ControlLoop } from "./control_loop.ts";
import { DataDialer, type DialData } from "./data_dialer.ts";
import type {
  DataPath,
  DataPathOptions,
  PortChoice,
  QueuePairPath,
  QueuePairPathOptions,
  StreamPath,
} from "./data_path.ts";
import {
  type ConnectQueuePair,
  errorMessage,
  establish,
  type Established,
  type Establishment,
  type QueuePairTransport,
  type StreamTransport,
} from "./establish.ts";

export interface ClientSessionOptions {
  readonly tls: TlsConnection;
  /** Sent to the server, which logs it. */
  readonly agent: string;
  /** What may carry data, most wanted first. */
  readonly transports: readonly Transport[];
  /** Needed for the transport rdma. */
  readonly queuePairs?: ClientQueuePairs | undefined;
  /** Needed for the transport ktls. */
  readonly streams?: ClientStreams | undefined;
  readonly services: readonly Service[];
  /** Seconds that the exchange may take. */
  readonly handshakeSeconds: number;
  /** Gives up on the exchange. */
  readonly signal: AbortSignal;
}

/** How a client makes queue pairs. */
export interface ClientQueuePairs {
  readonly port: PortChoice;
  readonly connect: Connect;
  readonly connectQueuePair: ConnectQueuePair;
  readonly openDataPath: (options: QueuePairPathOptions) => QueuePairPath;
}

/** How a client makes data connections. */
export interface ClientStreams {
  readonly dial: DialData;
  readonly openDataPath: (options: DataPathOptions) => StreamPath;
}

/** An established session with a server. Disposing it says BYE and frees everything. */
export class ClientSession implements AsyncDisposable {
  readonly agreed: Established;
  /** The port of this side's queue pair, where there is one. */
  readonly port: PortChoice | undefined;
  readonly #connection: ControlConnection;
  readonly #dataPath: DataPath;
  readonly #link: Disposable;
  readonly #loop: ControlLoop;
  readonly #running: Promise<never>;

  private constructor(
    connection: ControlConnection,
    port: PortChoice | undefined,
    { agreed, dataPath, link, failure }: Establishment,
  ) {
    this.agreed = agreed;
    this.port = port;
    this.#connection = connection;
    this.#dataPath = dataPath;
    this.#link = link;
    this.#loop = new ControlLoop({
      connection,
      idleSeconds: agreed.welcome.limits.idleSeconds,
    });
    this.#running = this.#run(failure);
    this.#running.catch(() => {}); // whoever works on the session awaits it through during()
  }

  /**
   * Runs the exchange on a TLS connection, which is the session's from then on.
   *
   * @throws VerbsealError naming why it failed; everything is freed then
   */
  static async open(options: ClientSessionOptions): Promise<ClientSession> {
    const { tls, agent, queuePairs, streams } = options;
    const connection = new ControlConnection(tls);
    let late = false;
    const deadline = setTimeout(() => {
      late = true;
      connection.abort();
    }, options.handshakeSeconds * 1000);
    const giveUp = () => connection.abort();
    options.signal.addEventListener("abort", giveUp, { once: true });
    try {
      const establishment = await establish({
        exchange: new ClientExchange({ offers: offersOf(options), agent }),
        connection,
        queuePairs: queuePairs && queuePairTransport(queuePairs),
        streams: streams && streamTransport(streams),
      });
      return new ClientSession(connection, queuePairs?.port, establishment);
    } catch (error) {
      connection.sendLast(errorMessage(error));
      await connection.close();
      options.signal.throwIfAborted();
      if (!late) throw error;
      throw new RdmaError(
        "exchange_timeout",
        `the exchange was not finished within ${options.handshakeSeconds} seconds`,
        "check that RDMA traffic passes between the hosts (UDP port 4791 for RoCE)",
        { cause: error },
      );
    } finally {
      clearTimeout(deadline);
      options.signal.removeEventListener("abort", giveUp);
    }
  }

  /** Asks a service of the server. */
  request(service: Service, body: unknown): Promise<unknown> {
    return this.#loop.request(service, body);
  }

  /** Awaits work on the session, or the session's failure if that comes first. */
  during<T>(work: Promise<T>): Promise<T> {
    return Promise.race([work, this.#running]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#connection.sendLast({ name: "BYE", body: {} }); // closing sends what was written
    const closing = this.#connection.close();
    await this.#dataPath.close();
    this.#link[Symbol.dispose]();
    await closing;
  }

  async #run(failure: Promise<VerbsealError>): Promise<never> {
    const failed = failure.then((error) => Promise.reject(error));
    const farewell = await Promise.race([this.#loop.run(), failed]);
    throw new RdmaError(
      "server_ended",
      farewell === "bye" ? "the server is stopping" : "the server closed the connection",
      "try again when it is back",
    );
  }
}

function offersOf({ transports, queuePairs, services }: ClientSessionOptions): Offers {
  return {
    transports: [...transports],
    ...(queuePairs
      ? { providers: [queuePairs.port.provider], connect: [queuePairs.connect], seal: ["off"] }
      : {}),
    services: [...services],
  };
}

function queuePairTransport(
  { port, connectQueuePair, openDataPath }: ClientQueuePairs,
): QueuePairTransport {
  return {
    psns: new PsnSource(),
    openDataPath: (welcome, { provider }) =>
      openDataPath({ ...pathOptions(welcome), port, peerProvider: provider }),
    connectQueuePair: () => connectQueuePair,
  };
}

function streamTransport({ dial, openDataPath }: ClientStreams): StreamTransport {
  return {
    openDataPath: (welcome) => openDataPath(pathOptions(welcome)),
    link: ({ session }, tokens) => new DataDialer(session, tokens, dial),
  };
}

function pathOptions({ limits, choices }: Welcome): DataPathOptions {
  return { side: "client", messageBytes: limits.messageBytes, services: choices.services };
}
