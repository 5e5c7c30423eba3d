import { addressOf, pointerOf } from "../../../ffi/layout.ts";
import { CM, librdmacm, rdmaConnParam } from "../../../ffi/librdmacm.ts";
import { RdmaError } from "../../errors.ts";
import { type Destination, portOf, resolve, type ResolvedPort } from "./address_resolution.ts";
import type { CmEvent, CommunicationIdentifier } from "./communication_identifier.ts";
import { type ConnectionAttributes, connectionAttributes } from "./connection_attributes.ts";
import { openIdentifier } from "./event_channel.ts";
import { socketAddress } from "./socket_address.ts";

/** The connection manager's service port unless told otherwise. It is not a UDP port. */
export const DEFAULT_CM_PORT = 4791;

/** Bytes of private data that a request has room for in port space TCP (rdma_connect(3)). */
export const MAX_PRIVATE_DATA = 56;

/** Milliseconds for the address, and as many for the route, as rdma-core's own programs allow. */
const resolveTimeout = 2000;

/** One side's part of a connection (struct rdma_conn_param). */
export interface ConnectionParameters {
  /** The queue pair to connect: of the same device, from whatever context, thread or process. */
  readonly qpn: number;
  /** READs and atomics of the peer that are served at once, its maxDestRdAtomic, up to the device's limit. */
  readonly responderResources: number;
  /** READs and atomics outstanding at most, its maxRdAtomic, up to the device's limit. */
  readonly initiatorDepth: number;
  /** The peer's retries after our RNR NAK, 0 to 7; 7 means for ever. */
  readonly rnrRetry: number;
}

export interface ConnectOptions extends ConnectionParameters, Destination {
  /** 56 bytes at most. They travel in the clear. */
  readonly privateData: Uint8Array<ArrayBuffer>;
  /** Retries of both sides when acknowledgements are missing, 0 to 7. */
  readonly retryCount: number;
}

/** Attributes for the three transitions of a queue pair; they can be cloned to another thread. */
export interface ConnectionTransitions {
  readonly init: ConnectionAttributes<"INIT">;
  readonly rtr: ConnectionAttributes<"RTR">;
  readonly rts: ConnectionAttributes<"RTS">;
}

/**
 * A connection of the connection manager, from the first message on. It connects queue pair
 * numbers and owns no queue pair. Disposing it tells the peer: a request is rejected, an
 * established connection disconnected.
 */
export abstract class CmConnection implements Disposable {
  protected readonly identifier: CommunicationIdentifier;
  /** The peer's queue pair, as it says in the clear: compare it with the one agreed in TLS. */
  readonly remoteQpn: number;
  /** The port that the connection manager chose: the queue pair must be of this device. */
  readonly local: ResolvedPort | undefined;

  constructor(identifier: CommunicationIdentifier, remoteQpn: number) {
    this.identifier = identifier;
    this.remoteQpn = remoteQpn;
    this.local = portOf(identifier);
  }

  /** Resolves at the end: to the error that brought it, to undefined when it was disposed here. */
  get closed(): Promise<RdmaError | undefined> {
    return this.identifier.closed;
  }

  /**
   * Attributes for the queue pair; the caller adds access to `init`, rqPsn and minRnrTimer to
   * `rtr`, and sqPsn to `rts`.
   *
   * @throws RdmaError what ended the connection, if it has ended
   */
  attributes(): ConnectionTransitions {
    return {
      init: connectionAttributes(this.identifier, "INIT"),
      rtr: connectionAttributes(this.identifier, "RTR"),
      rts: connectionAttributes(this.identifier, "RTS"),
    };
  }

  [Symbol.dispose](): void {
    this.identifier[Symbol.dispose]();
  }
}

/** A connection that this side asked for, and that the peer has accepted. */
export class OutgoingConnection extends CmConnection {
  /**
   * Ends the handshake, once the queue pair is in state RTS.
   *
   * @throws RdmaError what ended the connection, if it has ended
   */
  establish(): void {
    this.identifier.check("rdma_establish", librdmacm().rdma_establish(this.identifier.pointer));
  }
}

/** A connection that a peer asks for. Until it is accepted anybody may have sent it. */
export class IncomingConnection extends CmConnection {
  /** A copy of what the peer sent, padded with zeros to {@linkcode MAX_PRIVATE_DATA} bytes by the fabric. */
  readonly privateData: Uint8Array<ArrayBuffer>;
  readonly #onExpected: () => void;

  /** @param onExpected called when it is somebody's who is expected */
  constructor(identifier: CommunicationIdentifier, event: CmEvent, onExpected: () => void) {
    super(identifier, event.remoteQpn);
    this.privateData = event.privateData;
    this.#onExpected = onExpected;
  }

  /** It is no stranger's: it makes room for no other, and is to be accepted in the caller's time. */
  expected(): void {
    this.#onExpected();
  }

  /**
   * Accepts, once the queue pair is in state RTS, and resolves when the peer has established the
   * connection. A failure ends it.
   *
   * @throws RdmaError when the peer rejects, vanishes, or does not answer before the signal aborts
   */
  async accept(parameters: ConnectionParameters, signal: AbortSignal): Promise<void> {
    const { identifier } = this;
    using failure = new DisposableStack();
    failure.use(this);
    const accepted = librdmacm()
      .rdma_accept(identifier.pointer, connectionParameters(parameters).pointer);
    identifier.check("rdma_accept", accepted);
    this.expected();
    await identifier.expect(CM.RDMA_CM_EVENT_ESTABLISHED, signal);
    failure.move();
  }
}

/** Where connections are awaited, and how many strangers may wait. */
export interface ListenOptions {
  /** An address of this host; unless given, all of them. */
  readonly address?: string;
  readonly port: number;
  /**
   * Requests of strangers that wait at once; for one more the one that waits longest is rejected, so
   * that who sends many drives out its own.
   */
  readonly backlog: number;
  /** Milliseconds after which a request that nobody expects is rejected. */
  readonly answerWithin: number;
}

/** Awaits connections. Disposing it rejects the requests that nobody expects, and no others. */
export class CmListener implements Disposable {
  readonly #identifier: CommunicationIdentifier;
  /** Of strangers, in the order in which they came. */
  readonly #unexpected = new Set<IncomingConnection>();
  readonly #options: ListenOptions;
  readonly #onRequest: (connection: IncomingConnection) => void;

  /**
   * @param onRequest gets every request, and owns it; must not throw
   * @throws RdmaError when the address is not of an RDMA device or the port is taken
   */
  constructor(options: ListenOptions, onRequest: (connection: IncomingConnection) => void) {
    const { address = "::", port, backlog } = options;
    const source = socketAddress(address, port);
    this.#options = options;
    this.#onRequest = onRequest;
    const identifier = this.#identifier = openIdentifier(`${address} port ${port}`);
    using failure = new DisposableStack();
    failure.use(identifier);
    identifier.onRequest = (request, event) => this.#take(request, event);
    const bound = librdmacm().rdma_bind_addr(identifier.pointer, source.pointer);
    identifier.check("rdma_bind_addr", bound);
    identifier.check("rdma_listen", librdmacm().rdma_listen(identifier.pointer, backlog));
    failure.move();
  }

  /** Resolves at the end: to the error that brought it, to undefined when it was disposed here. */
  get closed(): Promise<RdmaError | undefined> {
    return this.#identifier.closed;
  }

  [Symbol.dispose](): void {
    this.#identifier[Symbol.dispose]();
    for (const connection of [...this.#unexpected]) connection[Symbol.dispose]();
  }

  #take(request: CommunicationIdentifier, event: CmEvent): void {
    const { backlog, answerWithin } = this.#options;
    const expiry = setTimeout(() => request.end(unanswered(request, answerWithin)), answerWithin);
    const forget = () => {
      clearTimeout(expiry);
      this.#unexpected.delete(connection);
    };
    const connection = new IncomingConnection(request, event, forget);
    this.#unexpected.add(connection);
    request.closed.then(forget);
    this.#onRequest(connection);
    if (this.#unexpected.size <= backlog) return;
    const [longest] = this.#unexpected;
    this.#unexpected.delete(longest!);
    longest![Symbol.dispose]();
  }
}

function unanswered(request: CommunicationIdentifier, milliseconds: number): RdmaError {
  return new RdmaError(
    "cm_request_unanswered",
    `the connection request of ${request.where} was not expected within ${milliseconds} ms`,
  );
}

/**
 * Asks a peer to connect, and resolves when it accepts: then bring the queue pair to RTS and call
 * {@linkcode OutgoingConnection.establish}.
 *
 * @param signal ends the attempt when it aborts
 * @throws RdmaError when nobody listens, the peer rejects or does not answer, or the signal aborts
 */
export async function connect(
  options: ConnectOptions,
  signal: AbortSignal,
): Promise<OutgoingConnection> {
  const privateDataBytes = privateDataLength(options.privateData);
  const identifier = openIdentifier(`${options.address} port ${options.port}`);
  using failure = new DisposableStack();
  failure.use(identifier);
  await resolve(identifier, options, resolveTimeout, signal);
  const routed = librdmacm().rdma_resolve_route(identifier.pointer, resolveTimeout);
  identifier.check("rdma_resolve_route", routed);
  await identifier.expect(CM.RDMA_CM_EVENT_ROUTE_RESOLVED, signal);
  // Only now: nothing else keeps the private data reachable while events are awaited.
  const parameters = connectionParameters(options)
    .set("private_data", addressOf(pointerOf(options.privateData)))
    .set("private_data_len", privateDataBytes)
    .set("retry_count", options.retryCount);
  const asked = librdmacm().rdma_connect(identifier.pointer, parameters.pointer);
  identifier.check("rdma_connect", asked);
  const { remoteQpn } = await identifier.expect(CM.RDMA_CM_EVENT_CONNECT_RESPONSE, signal);
  const connection = new OutgoingConnection(identifier, remoteQpn);
  failure.move();
  return connection;
}

function privateDataLength({ length }: Uint8Array): number {
  if (length <= MAX_PRIVATE_DATA) return length;
  throw new RangeError(`${length} bytes of private data, where ${MAX_PRIVATE_DATA} fit`);
}

function connectionParameters(parameters: ConnectionParameters) {
  return rdmaConnParam.allocate()
    .set("qp_num", parameters.qpn)
    .set("responder_resources", parameters.responderResources)
    .set("initiator_depth", parameters.initiatorDepth)
    .set("rnr_retry_count", parameters.rnrRetry);
}
