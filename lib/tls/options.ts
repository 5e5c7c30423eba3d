import type { Endpoint } from "./connection.ts";
import type { ListenerCredentials } from "./credentials.ts";
import type { TlsSessionCache } from "./openssl_session_cache.ts";
import type { OcspMode } from "./revocation.ts";
import type { Identity, Trust } from "./trust.ts";

/** What a handshake may agree on; without an entry, what the library thinks best. */
export interface TlsSettings {
  /** Least version; TLS 1.2 unless told. */
  readonly minVersion?: "1.2" | "1.3";
  /** Cipher suites of TLS 1.2 and 1.3, by OpenSSL's names, most wanted first. */
  readonly ciphers?: readonly string[];
}

export interface ListenOptions extends Endpoint, ListenerCredentials {
  /** Protocols for ALPN, `verbseal/1` alone unless told; with an empty list clients need none. */
  readonly protocols?: readonly string[];
  /** The one of them whose connections the kernel seals, where it can (kTLS). */
  readonly kernelProtocol?: string;
  /** The process becomes another user's, which may not listen again where it listens now. */
  readonly otherUser?: boolean;
  readonly settings?: TlsSettings;
}

/** Where to connect to, and whom to believe. */
export interface DialOptions extends Endpoint {
  readonly trust: Trust;
  /** What the server is shown if it asks for a certificate. */
  readonly identity?: Identity;
  /** Whether the server has to staple an OCSP response to its certificate; it need not unless told. */
  readonly ocsp?: OcspMode;
  /** Name that the server's certificate must be for, where it is not `hostname`. */
  readonly serverName?: string;
  /** Protocol for ALPN, `verbseal/1` unless told. */
  readonly protocol?: string;
  /**
   * Lets the kernel seal and open records (kTLS). `preferred` offers nothing but what it can do both
   * of, if the settings leave anything of that; `allowed` has it do what it can of what is agreed on.
   */
  readonly kernel?: "preferred" | "allowed";
  readonly settings?: TlsSettings;
  /**
   * Sessions of earlier connections to resume, and where this one's is kept. Libssl alone does so,
   * and not with `ocsp`.
   */
  readonly sessions?: TlsSessionCache;
  /** How long looking up the host, connecting and the handshake may take, in seconds. */
  readonly handshakeSeconds: number;
  readonly signal?: AbortSignal;
}
