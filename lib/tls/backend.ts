import { TlsError } from "../errors.ts";
import type { TlsConnection, TlsListener } from "./connection.ts";
import * as deno from "./deno.ts";
import * as openssl from "./openssl.ts";
import { certificatePin } from "./openssl_verification.ts";
import type { DialOptions, ListenOptions, TlsSettings } from "./options.ts";
import { isPkcs11Uri } from "./pkcs11_uri.ts";
import { connect, connectFailure } from "./tcp.ts";
import type { Identity, Trust } from "./trust.ts";

/** Who speaks TLS: rustls, through Deno, or libssl. */
export type Backend = "deno" | "openssl";

/** A backend, and what of the options asks for it. */
export interface BackendChoice {
  readonly backend: Backend;
  readonly reason: string;
}

const backends = { deno, openssl };

/** The backend for a listener: Deno's, unless the options ask for what it cannot do. */
export function listenerBackend(options: ListenOptions): BackendChoice {
  const wanted = [
    ...identityWanted(options.identity),
    ...(options.clientAuthentication ? ["client certificates"] : []),
    ...(options.staple ? ["a stapled OCSP response"] : []),
    ...(options.kernelProtocol === undefined ? [] : ["kTLS"]),
    // With Deno another listener has to take over when certificates change.
    ...(options.otherUser ? ["another user than the socket's"] : []),
    ...settingsWanted(options.settings),
  ];
  return choice(wanted);
}

/** The backend for a connection: Deno's, unless the options ask for what it cannot do. */
export function dialerBackend(options: DialOptions): BackendChoice {
  return choice([
    ...trustWanted(options.trust),
    // Deno shows one only where it connects itself, not where it takes a connection over.
    ...(options.identity ? ["a certificate to show"] : []),
    ...(options.identity ? identityWanted(options.identity) : []),
    ...(options.kernel ? ["kTLS"] : []),
    ...(options.ocsp === undefined || options.ocsp === "off" ? [] : ["an OCSP response"]),
    ...settingsWanted(options.settings),
  ]);
}

function choice(wanted: readonly string[]): BackendChoice {
  return wanted.length === 0
    ? { backend: "deno", reason: "the options ask for nothing more" }
    : { backend: "openssl", reason: `the options ask for ${wanted.join(", ")}` };
}

function identityWanted({ key }: Identity): string[] {
  return isPkcs11Uri(key) ? ["a key in a token"] : [];
}

function trustWanted({ revocationLists = [], pins = [] }: Trust): string[] {
  return [
    ...(revocationLists.length > 0 ? ["revocation lists"] : []),
    ...(pins.length > 0 ? ["pinned keys"] : []),
  ];
}

function settingsWanted({ minVersion, ciphers }: TlsSettings = {}): string[] {
  return [
    ...(minVersion === undefined ? [] : ["a least version"]),
    ...(ciphers === undefined ? [] : ["cipher suites"]),
  ];
}

/**
 * Listens for TLS connections.
 *
 * @param options.port 0 lets the system choose
 * @throws VerbsealError when the address cannot be had, TlsError when the identity is of no use
 */
export function listen(
  options: ListenOptions,
  { backend }: Pick<BackendChoice, "backend"> = listenerBackend(options),
): TlsListener {
  return backends[backend].listen(options);
}

/**
 * Connects to a server and checks its certificate.
 *
 * @throws VerbsealError when the host cannot be reached, TlsError when it is not to be trusted or
 * does not speak the protocol, the signal's reason when it was aborted
 */
export function dial(
  options: DialOptions,
  { backend }: Pick<BackendChoice, "backend"> = dialerBackend(options),
): Promise<TlsConnection> {
  return inTime(options, (tcp, signal) => backends[backend].startTls(tcp, options, signal));
}

/** A server's public key, and what says so. */
export interface PeerKey {
  /** See {@linkcode pinOf}. */
  readonly pin: string;
  /** DER. */
  readonly certificate: Uint8Array;
}

/**
 * Asks a server for its key, believing nobody, and closes the connection. Libssl does it, as Deno
 * shows no certificates.
 *
 * @throws VerbsealError when the host cannot be reached, TlsError when its certificate is not in its
 * time or it does not speak the protocol, the signal's reason when it was aborted
 */
export async function peerKey(
  options: Omit<DialOptions, "trust" | "identity" | "ocsp" | "kernel">,
): Promise<PeerKey> {
  const connection = await inTime(
    options,
    (tcp, signal) => openssl.startTls(tcp, { ...options, trust: undefined }, signal),
  );
  await connection.close();
  const [certificate] = connection.peerCertificates;
  return { pin: certificatePin(certificate!), certificate: certificate! };
}

/** Connects, and does the handshake, within the time that there is for both. */
async function inTime<T>(
  options: Pick<DialOptions, "hostname" | "port" | "handshakeSeconds" | "signal">,
  handshake: (tcp: Deno.TcpConn, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const timeout = new AbortController();
  const timer = setTimeout(() => timeout.abort(), options.handshakeSeconds * 1000);
  const signal = AbortSignal.any([timeout.signal, ...(options.signal ? [options.signal] : [])]);
  try {
    const tcp = await connect(options, signal);
    return await handshake(tcp, signal);
  } catch (error) {
    options.signal?.throwIfAborted();
    if (!timeout.signal.aborted || error instanceof TlsError) throw error;
    const what = `did not answer within ${options.handshakeSeconds} seconds`;
    throw connectFailure(options, "connect_timeout", what, error);
  } finally {
    clearTimeout(timer);
  }
}
