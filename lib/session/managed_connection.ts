/** `--connect cm`: queue pairs brought up through the connection manager, with the PSNs agreed in TLS. */
import { encodeHex } from "@std/encoding/hex";
import { RdmaError } from "../errors.ts";
import type { Provider } from "../rdma/device.ts";
import {
  type CmConnection,
  CmListener,
  connect,
  type ConnectionParameters,
  type IncomingConnection,
} from "../rdma/verbs/connection_manager.ts";
import { RETRY_COUNT, RNR_RETRY } from "./bring_up.ts";
import type { ConnectOrder, QueuePairPath } from "./data_path.ts";
import type { ConnectQueuePair } from "./session_queue_pair.ts";

/** Requests that nobody expects yet: strangers' ones, and those faster than our own side. */
const BACKLOG = 64;

/** Milliseconds that a request may wait to be expected, and that the peer has to answer. */
const PATIENCE = 5000;

/** Bytes of the token in a request's private data. */
const TOKEN_BYTES = 32;

/**
 * @param reason why there is the embedded provider
 * @throws RdmaError for the embedded provider
 */
export function checkManageable(provider: Provider, reason?: string): void {
  if (provider === "verbs") return;
  const why = reason === undefined ? "" : ` (${reason})`;
  throw new RdmaError(
    "cm_embedded",
    `the embedded provider has no connection manager, which --connect cm asks for${why}`,
    "use --connect tls, or an RDMA device on both sides (see verbseal devices)",
  );
}

function parameters({ local, path }: ConnectOrder): ConnectionParameters {
  return {
    qpn: local.qpn,
    responderResources: path.maxDestRdAtomic,
    initiatorDepth: path.maxRdAtomic,
    rnrRetry: RNR_RETRY,
  };
}

/**
 * What the connection manager gives for the transitions, if it is what was agreed in TLS: it comes
 * from messages in the clear, and from routing.
 *
 * @throws RdmaError when another queue pair or port is meant, here or at the peer
 */
function agreedAttributes(connection: CmConnection, { local, remote }: ConnectOrder) {
  const attributes = connection.attributes();
  const meant = [
    ["queue pair", connection.remoteQpn, remote.qpn],
    ["GID", attributes.rtr.addressVector?.dgid, remote.gid],
    ["GID of this host", connection.local?.gid, local.gid],
  ];
  for (const [what, found, agreed] of meant) {
    if (found !== agreed) {
      throw new RdmaError(
        "cm_other_peer",
        `the connection manager connects to ${what} ${found}, agreed was ${agreed}`,
        "let both sides choose the port with --device",
      );
    }
  }
  return attributes;
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
    await dataPath.connect({ ...order, managed: agreedAttributes(connection, order) });
    connection.establish();
    building.move();
    return connection;
  };
}

/**
 * The server's side: awaits the request that bears a session's token. Queue pair numbers alone do
 * not tell clients apart, as each host counts its own, and anybody may send a request.
 */
export class ManagedServer implements Disposable {
  readonly #listener: CmListener;
  readonly #expected = new Map<string, (connection: IncomingConnection) => void>();
  readonly #early = new Map<string, IncomingConnection>();

  /** @throws RdmaError when the service port is taken */
  constructor(port: number) {
    this.#listener = new CmListener(
      { port, backlog: BACKLOG, answerWithin: PATIENCE },
      (connection) => this.#take(connection),
    );
  }

  readonly connectQueuePair: ConnectQueuePair = async (dataPath, order, token) => {
    using building = new DisposableStack();
    const connection = building.use(await this.#expect(encodeHex(token)));
    await this.#accept(connection, dataPath, order);
    building.move();
    return connection;
  };

  [Symbol.dispose](): void {
    this.#listener[Symbol.dispose]();
  }

  async #accept(
    connection: IncomingConnection,
    dataPath: QueuePairPath,
    order: ConnectOrder,
  ): Promise<void> {
    await dataPath.connect({ ...order, managed: agreedAttributes(connection, order) });
    await connection.accept(parameters(order), AbortSignal.timeout(PATIENCE));
  }

  #take(connection: IncomingConnection): void {
    // Private data is padded with zeros.
    const token = encodeHex(connection.privateData.subarray(0, TOKEN_BYTES));
    const expected = this.#expected.get(token);
    if (expected) {
      // It is for one: another request with the same token is a stranger's.
      this.#expected.delete(token);
      connection.expected();
      return expected(connection);
    }
    this.#early.set(token, connection);
    connection.closed.then(() => {
      if (this.#early.get(token) === connection) this.#early.delete(token);
    });
  }

  async #expect(token: string): Promise<IncomingConnection> {
    const early = this.#early.get(token);
    this.#early.delete(token);
    early?.expected();
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
    this.#expected.set(token, arrival.resolve);
    try {
      return await arrival.promise;
    } finally {
      clearTimeout(timer);
      this.#expected.delete(token);
    }
  }
}
