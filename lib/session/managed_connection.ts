/** `--connect cm`: queue pairs brought up through the connection manager, with the PSNs agreed in TLS. */
import { timingSafeEqual } from "@std/crypto/timing-safe-equal";
import { RdmaError } from "../errors.ts";
import {
  CmListener,
  connect,
  type ConnectionParameters,
  type IncomingConnection,
} from "../rdma/verbs/connection_manager.ts";
import { RETRY_COUNT, RNR_RETRY } from "./bring_up.ts";
import type { ConnectOrder, DataPath } from "./data_path.ts";
import type { ConnectQueuePair } from "./establish.ts";

/** Requests that nobody expects yet: strangers' ones, and those faster than our own side. */
const BACKLOG = 64;

/** Milliseconds that a request may wait to be expected, and that the peer has to answer. */
const PATIENCE = 5000;

function parameters({ local, path }: ConnectOrder): ConnectionParameters {
  return {
    qpn: local.qpn,
    responderResources: path.maxDestRdAtomic,
    initiatorDepth: path.maxRdAtomic,
    rnrRetry: RNR_RETRY,
  };
}

function checkPeer(remoteQpn: number, order: ConnectOrder): void {
  if (remoteQpn === order.remote.qpn) return;
  throw new RdmaError(
    "cm_other_peer",
    `the connection manager connects to queue pair ${remoteQpn}, agreed was ${order.remote.qpn}`,
  );
}

/** The client's side: asks the server's connection manager at `address` and `port`. */
export function managedClient(
  address: string,
  port: number,
  localAddress: string,
): ConnectQueuePair {
  return async (dataPath, order, token) => {
    using building = new DisposableStack();
    const connection = building.use(
      await connect({
        ...parameters(order),
        address,
        port,
        localAddress,
        retryCount: RETRY_COUNT,
        privateData: new Uint8Array(token),
      }, AbortSignal.timeout(PATIENCE)),
    );
    checkPeer(connection.remoteQpn, order);
    await dataPath.connect({ ...order, managed: connection.attributes() });
    connection.establish();
    building.move();
    return connection;
  };
}

/** The server's side: awaits the request that bears a session's token. */
export class ManagedServer implements Disposable {
  readonly #listener: CmListener;
  readonly #expected = new Map<number, (connection: IncomingConnection) => void>();
  readonly #early = new Map<number, IncomingConnection>();

  /** @throws RdmaError when the service port is taken */
  constructor(port: number) {
    this.#listener = new CmListener(
      { port, backlog: BACKLOG, answerWithin: PATIENCE },
      (connection) => this.#take(connection),
    );
  }

  readonly connectQueuePair: ConnectQueuePair = async (dataPath, order, token) => {
    using building = new DisposableStack();
    const connection = building.use(await this.#expect(order.remote.qpn));
    // Private data is padded with zeros.
    if (!timingSafeEqual(connection.privateData.subarray(0, token.length), token)) {
      throw new RdmaError(
        "cm_token",
        "the connection request does not come from the peer of the TLS connection",
        "someone may be tampering with the RDMA network",
      );
    }
    await this.#accept(connection, dataPath, order);
    building.move();
    return connection;
  };

  [Symbol.dispose](): void {
    this.#listener[Symbol.dispose]();
  }

  async #accept(
    connection: IncomingConnection,
    dataPath: DataPath,
    order: ConnectOrder,
  ): Promise<void> {
    await dataPath.connect({ ...order, managed: connection.attributes() });
    await connection.accept(parameters(order), AbortSignal.timeout(PATIENCE));
  }

  #take(connection: IncomingConnection): void {
    const { remoteQpn } = connection;
    const expected = this.#expected.get(remoteQpn);
    if (expected) return expected(connection);
    this.#early.set(remoteQpn, connection);
    connection.closed.then(() => {
      if (this.#early.get(remoteQpn) === connection) this.#early.delete(remoteQpn);
    });
  }

  async #expect(remoteQpn: number): Promise<IncomingConnection> {
    const early = this.#early.get(remoteQpn);
    this.#early.delete(remoteQpn);
    if (early) return early;
    const arrival = Promise.withResolvers<IncomingConnection>();
    const timer = setTimeout(() =>
      arrival.reject(
        new RdmaError(
          "cm_no_request",
          `no connection request came within ${PATIENCE} ms`,
          "check that the client reaches this host's connection manager",
        ),
      ), PATIENCE);
    this.#expected.set(remoteQpn, arrival.resolve);
    try {
      return await arrival.promise;
    } finally {
      clearTimeout(timer);
      this.#expected.delete(remoteQpn);
    }
  }
}
