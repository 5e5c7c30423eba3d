import { delay } from "@std/async/delay";
import { ClientExchange } from "../control/exchange.ts";
import type { Connect, Offers, Seal, Service, Transport, Welcome } from "../control/messages.ts";
import { QueuePairError, RdmaError } from "../errors.ts";
import { PsnSource } from "../security/psn.ts";
import type { TlsConnection } from "../tls/connection.ts";
import { ControlConnection } from "./control_connection.ts";
import { ControlLoop } from "./control_loop.ts";
import { DataDialer, type DialData } from "./data_dialer.ts";
import type {
  DataPathOptions,
  PortChoice,
  QueuePairPath,
  QueuePairPathOptions,
  StreamPath,
} from "./data_path.ts";
import { errorMessage, establish } from "./establish.ts";
import type { Established, SessionPath } from "./session_path.ts";
import type { ConnectQueuePair, QueuePairTransport } from "./session_queue_pair.ts";
import type { StreamTransport } from "./stream_link.ts";

/** Milliseconds. */
const MOMENT = 50;

export interface ClientSessionOptions {
  readonly tls: TlsConnection;
  /** Sent to the server, which logs it. */
  readonly agent: string;
  /** Name of an earlier session with the server, with whose work this one goes on. */
  readonly resume?: string | undefined;
  /** What may carry data, most wanted first. */
  readonly transports: readonly Transport[];
  /** Needed for the transport rdma. */
  readonly queuePairs?: ClientQueuePairs | undefined;
  /** Needed for the transport ktls. */
  readonly streams?: ClientStreams | undefined;
  readonly services: readonly Service[];
  /** Seconds that the exchange may take, and later the replacement of a queue pair. */
  readonly handshakeSeconds: number;
  /** Gives up on the exchange. */
  readonly signal: AbortSignal;
}

/** How a client makes queue pairs. */
export interface ClientQueuePairs {
  readonly port: PortChoice;
  readonly connect: Connect;
  /** What it offers to seal with, most wanted first. */
  readonly seals: readonly Seal[];
  readonly connectQueuePair: ConnectQueuePair;
  readonly openDataPath: (options: QueuePairPathOptions) => QueuePairPath;
}

/** How a client makes data connections. */
export interface ClientStreams {
  readonly dial: DialData;
  readonly openDataPath: (options: DataPathOptions) => StreamPath;
}

/**
 * An established session with a server. Disposing it says BYE and frees everything; where this side has
 * ended it, by a record that does not open for one, it says why: the server keeps what is to be gone on
 * with, and has the reason in its log.
 */
export class ClientSession implements AsyncDisposable {
  /** The port of this side's queue pair, where there is one. */
  readonly port: PortChoice | undefined;
  readonly #connection: ControlConnection;
  readonly #path: SessionPath;
  readonly #loop: ControlLoop;
  readonly #running: Promise<never>;
  /** Why the data path could not go on. */
  #failure: unknown;

  private constructor(
    connection: ControlConnection,
    port: PortChoice | undefined,
    path: SessionPath,
  ) {
    this.port = port;
    this.#connection = connection;
    this.#path = path;
    this.#loop = new ControlLoop({
      connection,
      idleSeconds: path.agreed.welcome.limits.idleSeconds,
      onQueuePairFrame: (frame) => path.take(frame),
    });
    this.#running = this.#run();
    this.#running.catch(() => {}); // whoever works on the session awaits it through during()
  }

  /** What was agreed; with another queue pair its numbers change. */
  get agreed(): Established {
    return this.#path.agreed;
  }

  /**
   * Runs the exchange on a TLS connection, which is the session's from then on.
   *
   * @throws VerbsealError naming why it failed; everything is freed then
   */
  static async open(options: ClientSessionOptions): Promise<ClientSession> {
    const { tls, agent, resume, queuePairs, streams } = options;
    const connection = new ControlConnection(tls);
    let late = false;
    const deadline = setTimeout(() => {
      late = true;
      connection.abort();
    }, options.handshakeSeconds * 1000);
    const giveUp = () => connection.abort();
    options.signal.addEventListener("abort", giveUp, { once: true });
    try {
      const path = await establish({
        exchange: new ClientExchange({
          offers: offersOf(options),
          agent,
          ...(resume === undefined ? {} : { resume }),
        }),
        connection,
        queuePairs: queuePairs && queuePairTransport(queuePairs),
        streams: streams && streamTransport(streams),
        replacementSeconds: options.handshakeSeconds,
      });
      return new ClientSession(connection, queuePairs?.port, path);
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

  /**
   * Asks a service of the server.
   *
   * @throws QueuePairError when the queue pair failed before the answer came
   */
  async request(service: Service, body: unknown): Promise<unknown> {
    if (this.#path.interruption) throw this.#path.interruption;
    return await this.#loop.request(service, body);
  }

  /**
   * Does work on the session, and all of it again when its queue pair failed meanwhile and another
   * one has taken its place.
   *
   * @throws what the work throws, or why the session ended
   */
  async repeating<T>(work: () => Promise<T>): Promise<T> {
    for (;;) {
      const { epoch } = this.#path;
      try {
        return await work();
      } catch (error) {
        if (!(error instanceof QueuePairError)) throw error;
        await this.during(this.#path.after(epoch));
      }
    }
  }

  /** Whether the session has ended, or does so in a moment: what fails with it may be told a little earlier. */
  async hasEnded(): Promise<boolean> {
    const ended = this.#running.catch(() => true);
    return await Promise.race([ended, delay(MOMENT).then(() => false)]);
  }

  /** Awaits work on the session, or the session's failure if that comes first. */
  during<T>(work: Promise<T>): Promise<T> {
    return Promise.race([work, this.#running]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Closing sends what was written.
    this.#connection.sendLast(
      this.#failure === undefined ? { name: "BYE", body: {} } : errorMessage(this.#failure),
    );
    const closing = this.#connection.close();
    await this.#path.close();
    await closing;
  }

  async #run(): Promise<never> {
    const path = this.#path.run({ interrupted: (why) => this.#loop.interrupt(why) });
    path.catch((error) => this.#failure = error);
    const farewell = await Promise.race([this.#loop.run(), path]);
    // Who has got an answer just before the server left does something with it first.
    await new Promise((resolve) => setTimeout(resolve));
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
      ? {
        providers: [queuePairs.port.provider],
        connect: [queuePairs.connect],
        seal: [...queuePairs.seals],
      }
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
