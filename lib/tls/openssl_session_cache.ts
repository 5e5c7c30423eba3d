import { lastingCallback } from "../../ffi/callback.ts";
import { addressOf } from "../../ffi/layout.ts";
import { libssl, SSL } from "../../ffi/libssl.ts";
import { logger } from "../telemetry/log.ts";
import { type Endpoint, endpointText } from "./connection.ts";
import { peerCertificatesOf } from "./openssl_chain.ts";
import { clearErrors } from "./openssl_error.ts";
import { isStillBelieved, verifierFor } from "./openssl_verification.ts";
import type { Identity, Trust } from "./trust.ts";
import { CryptoObject } from "./x509.ts";

const log = logger("tls");

/**
 * How long after a full handshake its keys are leant on, in milliseconds, however often they are
 * resumed meanwhile (RFC 8446, section 4.6.1).
 */
const longestUse = 86_400_000;

/** What an earlier connection to a server has left. */
interface CachedSession {
  /** SSL_SESSION; the cache's own, as a connection that is lost ends that which it has (SSL_free in ssl_lib.c). */
  readonly session: CryptoObject;
  /** As they were verified then, DER: the server's own first. */
  readonly certificates: readonly Uint8Array[];
  /** When that was, in milliseconds since 1970. */
  readonly verified: number;
}

/** A connection that is to come, and what it is made of. */
interface Dialling extends Endpoint {
  readonly serverName: string;
  readonly trust: Trust;
  readonly identity?: Identity;
  /** What else both sides will have agreed on, in words. */
  readonly terms: string;
  /** SSL_CTX, with what of `trust` it has. */
  readonly context: Deno.PointerObject;
  /** Before its handshake, with the name that the server must have. */
  readonly ssl: Deno.PointerObject;
}

/**
 * TLS sessions of a client, for its next connections to the same server to resume (RFC 8446, section
 * 2.2). A server that resumes one shows no certificate; so that of before is verified again, by what
 * is believed now, and where that fails the handshake is a full one.
 */
export class TlsSessionCache implements Disposable {
  /** The latest only, as each connection brings another. */
  readonly #sessions = new Map<string, CachedSession>();
  #disposed = false;

  /** Has a connection resume what there is, and keeps what its server gives for the next one. */
  attach(dialling: Dialling): Resumption {
    const key = keyOf(dialling);
    const found = this.#sessions.get(key);
    // Nobody else has it now: it is of use again only if this handshake succeeds.
    this.#sessions.delete(key);
    const offered = found && isStillOfUse(found, dialling) ? found : undefined;
    if (!offered) found?.session[Symbol.dispose]();
    return new Resumption(dialling.ssl, dialling.context, offered, (session) => {
      this.#sessions.get(key)?.session[Symbol.dispose]();
      if (this.#disposed) session.session[Symbol.dispose]();
      else this.#sessions.set(key, session);
    });
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    for (const { session } of this.#sessions.values()) session[Symbol.dispose]();
    this.#sessions.clear();
  }
}

/** Who shows another certificate is somebody else, and by other terms a session may be of no use. */
function keyOf({ serverName, terms, identity, ...server }: Dialling): string {
  return [endpointText(server), serverName, terms, identity?.certificate].join(" ");
}

function isStillOfUse({ certificates, verified }: CachedSession, dialling: Dialling): boolean {
  const { context, ssl, trust } = dialling;
  if (Date.now() - verified > longestUse) return false;
  const [purpose, verifier] = ["ssl_server", verifierFor(trust)] as const;
  const checks = { pins: trust.pins ?? [] };
  if (isStillBelieved({ certificates, purpose, context, ssl, verifier, checks })) return true;
  log.debug("a TLS session is not resumed: its server is not believed as it was then");
  return false;
}

/** One connection's part in it, which ends with the connection. */
class Resumption implements Disposable {
  readonly #stop: Disposable;
  readonly #began = Date.now();
  #offered: CachedSession | undefined;

  /**
   * @param offered this one's from now on
   * @param keep takes what is for the next connection
   */
  constructor(
    private readonly ssl: Deno.PointerObject,
    context: Deno.PointerObject,
    offered: CachedSession | undefined,
    private readonly keep: (session: CachedSession) => void,
  ) {
    this.#offered = offered;
    this.#stop = receiveSessions(context, ssl, (session) => this.#receive(session));
    if (!offered) return;
    using session = copyOf(offered.session.pointer);
    if (session) libssl().SSL_set_session(ssl, session.pointer);
  }

  /** The handshake has succeeded: what was offered can be offered again, if it is not for one use. */
  established(): void {
    const offered = this.#offered;
    const isReusable = this.#isReused && offered && !isForOneUse(offered.session.pointer);
    if (!isReusable) return;
    this.#offered = undefined;
    this.keep(offered);
  }

  get #isReused(): boolean {
    return libssl().SSL_session_reused(this.ssl) === 1;
  }

  #receive(received: Deno.PointerObject): void {
    const session = copyOf(received);
    if (!session) return;
    const former = this.#isReused ? this.#offered : undefined;
    const { certificates, verified } = former ??
      { certificates: peerCertificatesOf(this.ssl), verified: this.#began };
    this.keep({ session, certificates, verified });
  }

  [Symbol.dispose](): void {
    this.#stop[Symbol.dispose]();
    this.#offered?.session[Symbol.dispose]();
  }
}

/** Undefined for want of memory. */
function copyOf(session: Deno.PointerObject): CryptoObject | undefined {
  const { SSL_SESSION_dup, SSL_SESSION_free } = libssl();
  const copy = SSL_SESSION_dup(session);
  if (copy !== null) return new CryptoObject(copy, SSL_SESSION_free);
  clearErrors();
  return undefined;
}

/** Who sees a ticket of TLS 1.3 twice knows that both are of one client (RFC 8446, appendix C.4). */
function isForOneUse(session: Deno.PointerValue): boolean {
  return libssl().SSL_SESSION_get_protocol_version(session) === SSL.TLS1_3_VERSION;
}

type Receiver = (session: Deno.PointerObject) => void;

/** By connection (SSL) that sessions may still come with. */
const receivers = new Map<bigint, Receiver>();

/** Has C tell of sessions: at the end of a handshake, with TLS 1.3 whenever a ticket comes. */
function receiveSessions(
  context: Deno.PointerObject,
  ssl: Deno.PointerObject,
  receiver: Receiver,
): Disposable {
  const { SSL_CTX_ctrl, SSL_CTX_sess_set_new_cb } = libssl();
  const mode = BigInt(SSL.SSL_SESS_CACHE_CLIENT | SSL.SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_ctrl(context, SSL.SSL_CTRL_SET_SESS_CACHE_MODE, mode, null);
  SSL_CTX_sess_set_new_cb(context, sessionCallback());
  const key = addressOf(ssl);
  receivers.set(key, receiver);
  return { [Symbol.dispose]: () => receivers.delete(key) };
}

const sessionCallback = lastingCallback(
  { parameters: ["pointer", "pointer"], result: "i32" },
  (ssl, session) => {
    receivers.get(addressOf(ssl))?.(session!);
    // 0: nothing keeps this one.
    return 0;
  },
);
