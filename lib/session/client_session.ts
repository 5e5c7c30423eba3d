import { ClientExchange } from "../control/exchange.ts";
import type { Connect, Service } from "../control/messages.ts";
import { RdmaError } from "../errors.ts";
import { PsnSource } from "../security/psn.ts";
import type { TlsConnection } from "../tls/connection.ts";
import { ControlConnection } from "./control_connection.ts";
import { ControlLoop } from "./control_loop.ts";
import type { DataPath, PortChoice, QueuePairPath, QueuePairPathOptions } from "./data_path.ts";
import {
  type ConnectQueuePair,
  errorMessage,
  establish,
  type Established,
  type Establishment,
} from "./establish.ts";

export interface ClientSessionOptions {
  readonly tls: TlsConnection;
  /** Sent to the server, which logs it. */
  readonly agent: string;
  readonly connect: Connect;
  readonly connectQueuePair: ConnectQueuePair;
  readonly services: readonly Service[];
  /** Seconds that the exchange may take. */
  readonly handshakeSeconds: number;
  /** Gives up on the exchange. */
  readonly signal: AbortSignal;
  readonly port: PortChoice;
  readonly openDataPath: (options: QueuePairPathOptions) => QueuePairPath;
}

/** An established session with a server. Disposing it says BYE and frees everything. */
export class ClientSession implements AsyncDisposable {
  readonly agreed: Established;
  /** The port of this side. */
  readonly port: PortChoice;
  readonly #connection: ControlConnection;
  readonly #dataPath: DataPath;
  readonly #link: Disposable;
  readonly #loop: ControlLoop;
  readonly #running: Promise<never>;

  private constructor(
    connection: ControlConnection,
    port: PortChoice,
    { agreed, dataPath, link }: Establishment,
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
    this.#running = this.#run();
    this.#running.catch(() => {}); // whoever works on the session awaits it through during()
  }

  /**
   * Runs the exchange on a TLS connection, which is the session's from then on.
   *
   * @throws VerbsealError naming why it failed; everything is freed then
   */
  static async open(options: ClientSessionOptions): Promise<ClientSession> {
    const { tls, agent, connect, services, port } = options;
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
        exchange: new ClientExchange(
          {
            offers: {
              transports: ["rdma"],
              providers: [port.provider],
              connect: [connect],
              seal: ["off"],
              services: [...services],
            },
            agent,
          },
        ),
        connection,
        queuePairs: {
          psns: new PsnSource(),
          openDataPath: ({ limits }, { provider, services }) =>
            options.openDataPath({
              port,
              peerProvider: provider,
              side: "client",
              messageBytes: limits.messageBytes,
              services,
            }),
          connectQueuePair: () => options.connectQueuePair,
        },
      });
      return new ClientSession(connection, port, establishment);
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

  async #run(): Promise<never> {
    const failed = this.#dataPath.failure.then((error) => Promise.reject(error));
    const farewell = await Promise.race([this.#loop.run(), failed]);
    throw new RdmaError(
      "server_ended",
      farewell === "bye" ? "the server is stopping" : "the server closed the connection",
      "try again when it is back",
    );
  }
}
