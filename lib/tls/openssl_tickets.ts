import { lastingCallback } from "../../ffi/callback.ts";
import { libssl, SSL } from "../../ffi/libssl.ts";
import { chainOfTicket, verifiedChain } from "./openssl_chain.ts";
import { derOf, isStillBelieved, verifyAuthorities } from "./openssl_verification.ts";

/** How long one key seals tickets, in milliseconds: who learns it opens those of a day (RFC 9325, section 3.4). */
const keyMilliseconds = 86_400_000;

/** Keys of a server's tickets: new ones each day, with which resumption of what was before ends too. */
export class TicketKeys {
  #since = Date.now();

  /** @param context SSL_CTX, which has made the first ones itself */
  constructor(private readonly context: Deno.PointerObject) {}

  /** Before each handshake. */
  renew(): void {
    const now = Date.now();
    // A clock that was set back makes no key last longer.
    if (now >= this.#since && now - this.#since < keyMilliseconds) return;
    this.#since = now;
    const { SSL_CTX_ctrl, SSL_CTX_set_tlsext_ticket_keys } = libssl();
    const command = SSL.SSL_CTRL_SET_TLSEXT_TICKET_KEYS;
    // Without keys it says how long they are.
    const keys = new Uint8Array(Number(SSL_CTX_ctrl(this.context, command, 0n, null)));
    crypto.getRandomValues(keys);
    SSL_CTX_set_tlsext_ticket_keys(this.context, command, BigInt(keys.length), keys);
    keys.fill(0);
  }
}

/**
 * Has tickets hold the authorities between a client's certificate and the one that is believed, and
 * has both verified again before one is resumed: libssl keeps the certificate alone, and looks at
 * nothing. A client that would be refused now makes a full handshake, in which it hears why.
 *
 * @param context SSL_CTX of a server that asks for certificates
 */
export function verifyTickets(context: Deno.PointerObject): void {
  libssl().SSL_CTX_set_session_ticket_cb(context, sealed(), opened(), null);
}

const sealed = lastingCallback({ parameters: ["pointer", "pointer"], result: "i32" }, (ssl) => {
  // The last one is known anyway. A session that is resumed has its own already.
  const between = verifiedChain(ssl).slice(1, -1);
  if (between.length === 0) return 1;
  const data = Uint8Array.from(between.flatMap((der) => [...der]));
  const { SSL_get_session, SSL_SESSION_set1_ticket_appdata } = libssl();
  return SSL_SESSION_set1_ticket_appdata(SSL_get_session(ssl), data, BigInt(data.length));
});

const opened = lastingCallback(
  { parameters: ["pointer", "pointer", "pointer", "usize", "i32", "pointer"], result: "i32" },
  (ssl, session, _keyName, _keyNameLength, status) => {
    const isFresh = status === SSL.SSL_TICKET_SUCCESS;
    const isKnown = isFresh || status === SSL.SSL_TICKET_SUCCESS_RENEW;
    if (!isKnown || !isWelcome(ssl!, session!)) return SSL.SSL_TICKET_RETURN_IGNORE_RENEW;
    return isFresh ? SSL.SSL_TICKET_RETURN_USE : SSL.SSL_TICKET_RETURN_USE_RENEW;
  },
);

function isWelcome(ssl: Deno.PointerObject, session: Deno.PointerObject): boolean {
  const { SSL_SESSION_get0_peer, SSL_get_SSL_CTX } = libssl();
  const leaf = SSL_SESSION_get0_peer(session);
  // A client without a certificate, where that is optional.
  if (leaf === null) return true;
  return isStillBelieved({
    certificates: [derOf(leaf), ...chainOfTicket(session)],
    purpose: "ssl_client",
    context: SSL_get_SSL_CTX(ssl)!,
    ssl,
    verifier: verifyAuthorities(),
  });
}
