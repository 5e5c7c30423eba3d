import ipaddr from "ipaddr.js";
import { cString } from "../../ffi/layout.ts";
import { libcrypto } from "../../ffi/libcrypto.ts";
import { libssl, SSL } from "../../ffi/libssl.ts";
import { TlsError } from "../errors.ts";
import { protocol, type TlsConnection } from "./connection.ts";
import { openDescriptor } from "./descriptor.ts";
import { handshakeTimeout } from "./failure.ts";
import { lingerMilliseconds, TlsSocket } from "./openssl_connection.ts";
import { TlsContext, wireList } from "./openssl_context.ts";
import { agreed, shakeHands } from "./openssl_handshake.ts";
import { StapleCheck } from "./openssl_stapling.ts";
import type { DialOptions } from "./options.ts";
import { closeQuietly, endpointOf } from "./tcp.ts";
import type { Trust } from "./trust.ts";

export { listen } from "./openssl_listener.ts";

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
  const { socket, resumption } = clientSocket(tcp, options, staple);
  const abort = () => socket[Symbol.dispose]();
  signal.addEventListener("abort", abort);
  try {
    signal.throwIfAborted();
    const { protocol: wanted = protocol, serverName = options.hostname } = options;
    await shakeHands(socket, "client", options, { serverName, pins: options.trust?.pins ?? [] });
    const addresses = [endpointOf(localAddr), endpointOf(remoteAddr)] as const;
    const connection = agreed(socket, "client", ...addresses, [wanted]);
    resumption?.established();
    return connection;
  } catch (error) {
    const late = signal.aborted;
    await socket.drain(lingerMilliseconds);
    if (late) throw handshakeTimeout(options, options.handshakeSeconds);
    throw staple.failure ?? error;
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

function clientSocket(tcp: Deno.TcpConn, options: HandshakeOptions, staple: StapleCheck) {
  const { hostname, serverName = hostname, protocol: wanted = protocol } = options;
  using building = new DisposableStack();
  building.defer(() => closeQuietly(tcp));
  using context = TlsContext.client(options);
  building.use(staple.attach(context.pointer));
  const descriptor = openDescriptor(tcp.localAddr, tcp.remoteAddr);
  const release = building.move();
  using created = new DisposableStack();
  const socket = created.use(TlsSocket.create(context.pointer, descriptor, release));
  const { SSL_set_connect_state, SSL_set_alpn_protos, SSL_get0_param } = libssl();
  SSL_set_connect_state(socket.ssl);
  staple.request(socket.ssl);
  const list = wireList([wanted]);
  SSL_set_alpn_protos(socket.ssl, list, list.length);
  expectName(SSL_get0_param(socket.ssl), socket.ssl, serverName);
  const resumption = resume(socket.ssl, context.pointer, options);
  if (resumption) release.use(resumption);
  created.move();
  return { socket, resumption };
}

/** Undefined where no session of before is resumed, nor this one kept for others. */
function resume(
  ssl: Deno.PointerObject,
  context: Deno.PointerObject,
  { protocol: wanted = protocol, settings = {}, ...options }: HandshakeOptions,
) {
  const { sessions, trust, serverName = options.hostname, ocsp = "off" } = options;
  // The authority's word comes with a certificate only, and a server that resumes shows none.
  if (sessions && trust && ocsp === "off") {
    const { minVersion, ciphers = [] } = settings;
    const terms = [wanted, minVersion, ...ciphers].join(" ");
    return sessions.attach({ ...options, serverName, trust, terms, context, ssl });
  }
  // With TLS 1.2 a ticket holds this connection's keys, for whoever learns the server's to read.
  libssl().SSL_set_options(ssl, BigInt(SSL.SSL_OP_NO_TICKET));
  return undefined;
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
