import { addressOf, cString } from "../../ffi/layout.ts";
import { libcrypto } from "../../ffi/libcrypto.ts";
import { libssl, SSL } from "../../ffi/libssl.ts";
import { logger } from "../telemetry/log.ts";
import { type Endpoint, endpointText } from "./connection.ts";
import { peerCertificatesOf } from "./openssl_chain.ts";
import { clearErrors } from "./openssl_error.ts";
import { verifierFor, verifying } from "./openssl_verification.ts";
import type { Identity, Trust } from "./trust.ts";
import { CryptoObject, parseCertificate, stackOf } from "./x509.ts";

const log = logger("tls");

/** What an earlier connection to a server has left. */
interface CachedSession extends Disposable {
  /** SSL_SESSION. */
  readonly session: CryptoObject;
  /** As they were verified then, DER: the server's own first. */
  readonly certificates: readonly Uint8Array[];
  /** The certificate that the server knows this side by, PEM. */
  readonly shown: string | undefined;
}

/** A connection that is to come, and what it is made of. */
interface Attempt extends Endpoint {
  readonly serverName: string;
  /** For ALPN. */
  readonly protocol: string;
  readonly identity?: Identity;
  readonly trust: Trust;
  /** SSL_CTX, with what of `trust` it has. */
  readonly context: Deno.PointerObject;
  /** Before its handshake, with the name that the server must have. */
  readonly ssl: Deno.PointerObject;
}

/**
 * TLS sessions of a client, for its next connections to the same server to resume (RFC 8446, section
 * 2.2). A server that resumes one shows no certificate; so the one of before is verified again, by
 * what is believed now, and where that fails the handshake is a full one.
 */
export class TlsSessionCache implements Disposable {
  /** By server: the latest only, as each connection brings another. */
  readonly #sessions = new Map<string, CachedSession>();
  #disposed = false;

  /**
   * Has a connection resume what there is, and keeps what its server gives for the next one.
   *
   * @returns what ends the keeping, with the connection
   */
  attach(attempt: Attempt): Disposable {
    const key = keyOf(attempt);
    const offered = this.#offer(key, attempt);
    return receiveSessions(attempt, (session) => {
      const reused = libssl().SSL_session_reused(attempt.ssl) === 1;
      const certificates = reused && offered ? offered : peerCertificatesOf(attempt.ssl);
      this.#keep(key, session, certificates, attempt.identity?.certificate);
    });
  }

  /** @returns the certificates that were verified again; undefined if nothing is to be resumed */
  #offer(key: string, attempt: Attempt): readonly Uint8Array[] | undefined {
    const cached = this.#sessions.get(key);
    if (!cached) return undefined;
    const isWelcome = cached.shown === attempt.identity?.certificate &&
      isStillBelieved(cached.certificates, attempt);
    if (isWelcome) libssl().SSL_set_session(attempt.ssl, cached.session.pointer);
    else log.debug("a TLS session is not resumed: its server is not believed as it was then");
    if (!isWelcome || isForOneUse(cached.session.pointer)) {
      this.#sessions.delete(key);
      cached[Symbol.dispose]();
    }
    return isWelcome ? cached.certificates : undefined;
  }

  #keep(
    key: string,
    received: Deno.PointerValue,
    certificates: readonly Uint8Array[],
    shown: string | undefined,
  ): void {
    if (this.#disposed) return;
    const { SSL_SESSION_dup, SSL_SESSION_free } = libssl();
    // A connection that is lost ends the session that it has itself (SSL_free in ssl_lib.c).
    const copy = SSL_SESSION_dup(received);
    if (copy === null) return clearErrors();
    const session = new CryptoObject(copy, SSL_SESSION_free);
    this.#sessions.get(key)?.[Symbol.dispose]();
    this.#sessions.set(key, {
      session,
      certificates,
      shown,
      [Symbol.dispose]: () => session[Symbol.dispose](),
    });
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    for (const session of this.#sessions.values()) session[Symbol.dispose]();
    this.#sessions.clear();
  }
}

function keyOf(attempt: Attempt): string {
  return [endpointText(attempt), attempt.serverName, attempt.protocol].join(" ");
}

/** Who sees a ticket of TLS 1.3 twice knows that both are of one client (RFC 8446, appendix C.4). */
function isForOneUse(session: Deno.PointerValue): boolean {
  return libssl().SSL_SESSION_get_protocol_version(session) === SSL.TLS1_3_VERSION;
}

/** Asks what libssl asks in a handshake (ssl_verify_cert_chain in ssl_cert.c). */
function isStillBelieved(
  certificates: readonly Uint8Array[],
  { context, ssl, trust }: Attempt,
): boolean {
  const crypto = libcrypto();
  const { SSL_CTX_get_cert_store, SSL_get0_param, SSL_get_security_level } = libssl();
  using parsed = new DisposableStack();
  const [leaf, ...others] = certificates.map((der) => parsed.use(parseCertificate(der)));
  if (!leaf) return false;
  const untrusted = parsed.use(stackOf(...others));
  const { X509_STORE_CTX_new, X509_STORE_CTX_free } = crypto;
  using verification = new CryptoObject(X509_STORE_CTX_new(), X509_STORE_CTX_free);
  const { pointer } = verification;
  const store = SSL_CTX_get_cert_store(context);
  crypto.X509_STORE_CTX_init(pointer, store, leaf.pointer, untrusted.pointer);
  const parameters = crypto.X509_STORE_CTX_get0_param(pointer);
  crypto.X509_VERIFY_PARAM_set_auth_level(parameters, SSL_get_security_level(ssl));
  crypto.X509_STORE_CTX_set_default(pointer, cString("ssl_server"));
  crypto.X509_VERIFY_PARAM_set1(parameters, SSL_get0_param(ssl));
  crypto.X509_STORE_CTX_set_verify_cb(pointer, verifierFor(trust).pointer);
  const checks = { pins: trust.pins ?? [] };
  const { result } = verifying(checks, () => crypto.X509_verify_cert(pointer));
  clearErrors();
  return result === 1;
}

type Receiver = (session: Deno.PointerObject) => void;

/** By connection (SSL) that sessions may still come with. */
const receivers = new Map<bigint, Receiver>();

/** Has C tell of sessions: at the end of a handshake, with TLS 1.3 whenever a ticket comes. */
function receiveSessions({ context, ssl }: Attempt, receiver: Receiver): Disposable {
  const { SSL_CTX_ctrl, SSL_CTX_sess_set_new_cb } = libssl();
  const mode = BigInt(SSL.SSL_SESS_CACHE_CLIENT | SSL.SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_ctrl(context, SSL.SSL_CTRL_SET_SESS_CACHE_MODE, mode, null);
  SSL_CTX_sess_set_new_cb(context, sessionCallback().pointer);
  const key = addressOf(ssl);
  receivers.set(key, receiver);
  return { [Symbol.dispose]: () => receivers.delete(key) };
}

type SessionCallback = Deno.UnsafeCallback<
  { readonly parameters: readonly ["pointer", "pointer"]; readonly result: "i32" }
>;

let callback: SessionCallback | undefined;

/** One for all contexts, as long as the thread lives: they may outlive their owners. */
function sessionCallback(): SessionCallback {
  return callback ??= new Deno.UnsafeCallback(
    { parameters: ["pointer", "pointer"], result: "i32" } as const,
    (ssl, session) => {
      receivers.get(addressOf(ssl))?.(session!);
      // 0: nothing keeps this one.
      return 0;
    },
  );
}
