import { delay } from "@std/async/delay";
import ipaddr from "ipaddr.js";
import { constants } from "node:os";
import { forget, readable } from "../../ffi/epoll.ts";
import { cString } from "../../ffi/layout.ts";
import { C, check, errno, errnoName, libc } from "../../ffi/libc.ts";
import { libcrypto } from "../../ffi/libcrypto.ts";
import { libssl, SSL, X509_V } from "../../ffi/libssl.ts";
import { TlsError } from "../errors.ts";
import { logger } from "../telemetry/log.ts";
import {
  type Endpoint,
  type HandshakeCounts,
  type IncomingConnection,
  protocol,
  type TlsConnection,
  type TlsListener,
} from "./connection.ts";
import { descriptorOf, setAcceptedOptions } from "./descriptor.ts";
import { connectionClosed, handshakeTimeout, protocolMissing, type Side } from "./failure.ts";
import {
  CallFailure,
  lingerMilliseconds,
  OpensslConnection,
  TlsSocket,
} from "./openssl_connection.ts";
import { TlsContext, wireList } from "./openssl_context.ts";
import { handshakeFailure } from "./openssl_failure.ts";
import { StapleCheck } from "./openssl_stapling.ts";
import { certificatePin, namesOf, UnknownKeyError, verifying } from "./openssl_verification.ts";
import type { ListenerCredentials } from "./credentials.ts";
import type { DialOptions, ListenOptions } from "./options.ts";
import { closeQuietly, endpointOf, endpointOfSocket, listenFailure } from "./tcp.ts";
import type { Trust } from "./trust.ts";

const log = logger("tls");

/** Pause after a failed accept, in milliseconds: want of descriptors does not pass at once. */
const acceptRetryMilliseconds = 50;

/** Connections accepted in a row before others have their turn. */
const acceptBatch = 64;

/** What accept(2) fails with for reasons of the one connection. */
const passing: readonly number[] = [
  constants.errno.ECONNABORTED,
  constants.errno.EINTR,
  constants.errno.EPROTO,
];

/**
 * Listens for TLS connections; libssl speaks TLS. One thread has them all, without blocking.
 *
 * @param options.port 0 lets the system choose
 * @throws VerbsealError when the address cannot be had, TlsError when the identity is of no use
 */
export function listen(options: ListenOptions): TlsListener {
  const { hostname, port } = options;
  const context = contextFor(options);
  try {
    const listener = Deno.listen({ hostname, port });
    setAcceptedOptions(descriptorFor(listener.addr));
    return new OpensslListener(listener, context, options);
  } catch (error) {
    context[Symbol.dispose]();
    throw listenFailure(options, error);
  }
}

function contextFor(options: ListenOptions): TlsContext {
  return TlsContext.server({ ...options, protocols: protocolsOf(options) });
}

function protocolsOf({ protocols = [protocol] }: ListenOptions): readonly string[] {
  return protocols;
}

/** Deno finds and connects hosts well, but libssl wants a descriptor. */
function descriptorFor(local: Deno.NetAddr, peer?: Deno.NetAddr): number {
  const found = descriptorOf(local, peer);
  if (found !== undefined) return found;
  throw new TlsError("descriptor_lost", "The descriptor of a socket of this process is not found");
}

/** As {@linkcode DialOptions}; without trust every server passes, for its key to be looked at. */
type HandshakeOptions = Omit<DialOptions, "trust"> & { readonly trust: Trust | undefined };

/**
 * Does the handshake of a client on a TCP connection, which is closed if that fails.
 *
 * @throws TlsError when the server is not to be trusted or does not speak the protocol
 */
export async function startTls(
  tcp: Deno.TcpConn,
  options: HandshakeOptions,
  signal: AbortSignal,
): Promise<TlsConnection> {
  const { localAddr, remoteAddr } = tcp;
  const staple = new StapleCheck(options, options.ocsp ?? "off");
  const socket = clientSocket(tcp, options, staple);
  const abort = () => socket[Symbol.dispose]();
  signal.addEventListener("abort", abort);
  try {
    signal.throwIfAborted();
    const { protocol: wanted = protocol, serverName = options.hostname } = options;
    await shakeHands(socket, "client", options, { serverName, pins: options.trust?.pins ?? [] });
    const addresses = [endpointOf(localAddr), endpointOf(remoteAddr)] as const;
    return agreed(socket, "client", ...addresses, [wanted]);
  } catch (error) {
    const late = signal.aborted;
    await socket.drain(lingerMilliseconds);
    if (late) throw handshakeTimeout(options, options.handshakeSeconds);
    throw staple.failure ?? error;
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

function clientSocket(
  tcp: Deno.TcpConn,
  options: HandshakeOptions,
  staple: StapleCheck,
): TlsSocket {
  const { hostname, serverName = hostname, protocol: wanted = protocol } = options;
  using building = new DisposableStack();
  building.defer(() => closeQuietly(tcp));
  using context = TlsContext.client(options);
  building.use(staple.attach(context.pointer));
  const descriptor = descriptorFor(tcp.localAddr, tcp.remoteAddr);
  using created = new DisposableStack();
  const socket = created.use(TlsSocket.create(context.pointer, descriptor, building.move()));
  const { SSL_set_connect_state, SSL_set_alpn_protos, SSL_get0_param } = libssl();
  SSL_set_connect_state(socket.ssl);
  staple.request(socket.ssl);
  const list = wireList([wanted]);
  SSL_set_alpn_protos(socket.ssl, list, list.length);
  expectName(SSL_get0_param(socket.ssl), socket.ssl, serverName);
  created.move();
  return socket;
}

/**
 * Whom the certificate must be for; only of a name does the server hear (RFC 6066, section 3).
 *
 * @throws TlsError when it is no name: without one libssl would take every certificate
 */
function expectName(parameters: Deno.PointerValue, ssl: Deno.PointerObject, name: string): void {
  const crypto = libcrypto();
  const address = plainAddress(name);
  if (address !== undefined) {
    if (crypto.X509_VERIFY_PARAM_set1_ip_asc(parameters, cString(address)) === 1) return;
    throw noName(name);
  }
  const flags = SSL.X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS |
    SSL.X509_CHECK_FLAG_NEVER_CHECK_SUBJECT;
  crypto.X509_VERIFY_PARAM_set_hostflags(parameters, flags);
  const kind = BigInt(SSL.TLSEXT_NAMETYPE_host_name);
  const taken = name !== "" &&
    crypto.X509_VERIFY_PARAM_set1_host(parameters, cString(name), 0n) === 1 &&
    libssl().SSL_ctrl(ssl, SSL.SSL_CTRL_SET_TLSEXT_HOSTNAME, kind, cString(name)) === 1n;
  if (!taken) throw noName(name);
}

/** An address as certificates have it: in full (127.1 is short for 127.0.0.1), and without a zone. */
function plainAddress(name: string): string | undefined {
  if (!ipaddr.isValid(name)) return undefined;
  return ipaddr.fromByteArray(ipaddr.parse(name).toByteArray()).toString();
}

function noName(name: string): TlsError {
  return new TlsError(
    "name_invalid",
    `A server cannot have the name ${JSON.stringify(name)}`,
    "Name it as its certificate does",
  );
}

/**
 * Ends also when this side has given the handshake up, which may have been after its last call.
 *
 * @throws TlsError when the handshake fails
 */
async function shakeHands(
  socket: TlsSocket,
  side: Side,
  peer: Endpoint,
  { serverName, pins = [] }: { readonly serverName?: string; readonly pins?: readonly string[] } =
    {},
): Promise<void> {
  const { SSL_do_handshake, SSL_get_verify_result, SSL_get_current_cipher } = libssl();
  let refused: Uint8Array | undefined;
  try {
    await socket.run(() => {
      const step = verifying(pins, () => SSL_do_handshake(socket.ssl));
      refused = step.refused;
      return step.result;
    });
  } catch (error) {
    if (!(error instanceof CallFailure)) throw error;
    if (socket.ended) throw connectionClosed(peer, error);
    const verifyResult = Number(SSL_get_verify_result(socket.ssl));
    if (verifyResult === X509_V.X509_V_ERR_CERT_REJECTED && refused) {
      throw new UnknownKeyError(peer, certificatePin(refused));
    }
    throw handshakeFailure(side, error.failure.error, {
      peer,
      verifyResult,
      cipherAgreed: SSL_get_current_cipher(socket.ssl) !== null,
      expected: serverName === undefined ? undefined : expectation(serverName, refused),
    }, error);
  }
}

/** Whom a certificate was to be for, and whom the one refused was for. */
function expectation(serverName: string, certificate: Uint8Array | undefined): string {
  const names = certificate && namesOf(certificate);
  return names === undefined ? serverName : `${serverName} but for ${names}`;
}

/** @throws TlsError when the socket was ended, or the sides do not agree on one of `protocols` */
function agreed(
  socket: TlsSocket,
  side: Side,
  local: Endpoint,
  peer: Endpoint,
  protocols: readonly string[],
): OpensslConnection {
  const connection = new OpensslConnection(socket, side, local, peer);
  if (protocols.length === 0 || protocols.includes(connection.alpn ?? "")) return connection;
  throw protocolMissing(peer, protocols);
}

/** What a connection asks of its listener. */
interface Acceptor {
  readonly closed: boolean;
  /** SSL_CTX of the moment. */
  readonly context: Deno.PointerObject;
  readonly protocols: readonly string[];
  count(outcome: keyof HandshakeCounts): void;
}

class OpensslListener implements TlsListener, Acceptor {
  readonly handshakes = { full: 0, resumed: 0, failed: 0 };
  readonly #descriptor: number;
  readonly #address = new Uint8Array(128);
  readonly #length = new Uint32Array(1);
  #context: TlsContext;
  #closed = false;

  /** @param listener this listener's from now on, as is the context */
  constructor(
    private readonly listener: Deno.TcpListener,
    context: TlsContext,
    private readonly options: ListenOptions,
  ) {
    this.#context = context;
    this.#descriptor = descriptorFor(listener.addr);
  }

  get address(): Endpoint {
    return endpointOf(this.listener.addr);
  }

  get closed(): boolean {
    return this.#closed;
  }

  get context(): Deno.PointerObject {
    return this.#context.pointer;
  }

  get protocols(): readonly string[] {
    return protocolsOf(this.options);
  }

  count(outcome: keyof HandshakeCounts): void {
    this.handshakes[outcome] += 1;
  }

  /** Sessions of before cannot be resumed: their tickets are the old context's. */
  // deno-lint-ignore require-await -- Deno's listener takes its time
  async update(credentials: ListenerCredentials): Promise<void> {
    if (this.#closed) return;
    const { clientAuthentication: _, staple: _staple, ...kept } = this.options;
    const context = contextFor({ ...kept, ...credentials });
    this.#context[Symbol.dispose]();
    this.#context = context;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<IncomingConnection> {
    for (let count = 1; !this.#closed; count++) {
      const descriptor = this.#accept();
      if (descriptor >= 0) {
        yield new OpensslIncomingConnection(descriptor, endpointOfSocket(this.#address), this);
        if (count % acceptBatch === 0) await delay(0);
      } else if (errno() === constants.errno.EAGAIN) {
        await readable(this.#descriptor);
      } else if (!passing.includes(errno())) {
        log.warning("a connection could not be accepted", { reason: errnoName(errno()) });
        await delay(acceptRetryMilliseconds);
      }
    }
  }

  #accept(): number {
    this.#length[0] = this.#address.length;
    const flags = C.SOCK_NONBLOCK | C.SOCK_CLOEXEC;
    return libc().accept4(this.#descriptor, this.#address, this.#length, flags);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    forget(this.#descriptor);
    closeQuietly(this.listener);
    this.#context[Symbol.dispose]();
  }
}

class OpensslIncomingConnection implements IncomingConnection {
  #socket: TlsSocket | undefined;
  #ended = false;

  /**
   * @param descriptor this connection's from now on
   */
  constructor(
    private readonly descriptor: number,
    readonly peerAddress: Endpoint,
    private readonly listener: Acceptor,
  ) {}

  async handshake(): Promise<TlsConnection> {
    if (!this.#ended && this.listener.closed) this.abort();
    if (this.#ended) throw connectionClosed(this.peerAddress);
    this.#ended = true;
    const socket = this.#socket = TlsSocket.create(this.listener.context, this.descriptor);
    try {
      const connection = await this.#shakeHands(socket);
      this.listener.count(connection.handshake.resumed ? "resumed" : "full");
      return connection;
    } catch (error) {
      this.listener.count("failed");
      await socket.drain(lingerMilliseconds);
      throw error;
    }
  }

  async #shakeHands(socket: TlsSocket): Promise<OpensslConnection> {
    const local = localEndpoint(this.descriptor);
    libssl().SSL_set_accept_state(socket.ssl);
    await shakeHands(socket, "server", this.peerAddress);
    return agreed(socket, "server", local, this.peerAddress, this.listener.protocols);
  }

  abort(): void {
    if (this.#socket) return this.#socket[Symbol.dispose]();
    if (this.#ended) return;
    this.#ended = true;
    libc().close(this.descriptor);
  }
}

const localAddress = new Uint8Array(128);

function localEndpoint(descriptor: number): Endpoint {
  const length = Uint32Array.of(localAddress.length);
  check("getsockname", libc().getsockname(descriptor, localAddress, length));
  return endpointOfSocket(localAddress);
}
