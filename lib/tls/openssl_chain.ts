import { pointerAt } from "../../ffi/layout.ts";
import { libcrypto } from "../../ffi/libcrypto.ts";
import { libssl } from "../../ffi/libssl.ts";
import { derOf } from "./openssl_verification.ts";

/** The verified chain, DER; of a resumed session without the authority at its end. */
export function peerCertificatesOf(ssl: Deno.PointerObject): Uint8Array[] {
  const leaf = libssl().SSL_get1_peer_certificate(ssl);
  if (leaf === null) return [];
  try {
    const chain = verifiedChain(ssl);
    return chain.length > 0
      ? chain
      : [derOf(leaf), ...chainOfTicket(libssl().SSL_get_session(ssl))];
  } finally {
    libcrypto().X509_free(leaf);
  }
}

/** That of a handshake that was not resumed, DER; empty if the peer has shown none. */
export function verifiedChain(ssl: Deno.PointerValue): Uint8Array[] {
  const { OPENSSL_sk_num, OPENSSL_sk_value } = libcrypto();
  const chain = libssl().SSL_get0_verified_chain(ssl);
  const length = chain === null ? 0 : OPENSSL_sk_num(chain);
  return Array.from({ length }, (_, index) => derOf(OPENSSL_sk_value(chain, index)));
}

/** The authorities that a ticket holds (openssl_tickets.ts), DER. */
export function chainOfTicket(session: Deno.PointerValue): Uint8Array[] {
  const { SSL_SESSION_get0_ticket_appdata } = libssl();
  const [address, length] = [new BigUint64Array(1), new BigUint64Array(1)];
  SSL_SESSION_get0_ticket_appdata(session, address, length);
  const pointer = pointerAt(address[0]!);
  if (pointer === null || length[0] === 0n) return [];
  const data = Deno.UnsafePointerView.getArrayBuffer(pointer, Number(length[0])).slice(0);
  return split(new Uint8Array(data));
}

/** Certificates one after the other; each says its length in its head (X.690, section 8.1.3). */
function split(data: Uint8Array<ArrayBuffer>): Uint8Array[] {
  const found: Uint8Array[] = [];
  const view = new DataView(data.buffer);
  for (let at = 0; at < data.length;) {
    // No certificate is shorter than 256 bytes or, as a handshake has it, longer than 65,535.
    const end = at + 4 + view.getUint16(at + 2);
    found.push(data.subarray(at, end));
    at = end;
  }
  return found;
}
