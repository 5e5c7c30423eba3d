import { X509Certificate } from "node:crypto";
import { libcrypto } from "../../ffi/libcrypto.ts";
import { libssl, X509_V } from "../../ffi/libssl.ts";
import { TlsError } from "../errors.ts";
import { type Endpoint, endpointText } from "./connection.ts";
import { pinOf } from "./pin.ts";
import { parseCertificate } from "./x509.ts";

/** A server has another public key than those that are believed. */
export class UnknownKeyError extends TlsError {
  /** @param pin of the key that it has */
  constructor(peer: Endpoint, readonly pin: string) {
    super(
      "unknown_key",
      `The public key of ${endpointText(peer)} is none of those pinned: it is ${pin}`,
      "Ask the server's operator whether the key has changed, and pin the new one if so",
    );
  }
}

/** What says nothing against a server whose key is pinned: who has signed, and for which name. */
const immaterialToPins: readonly number[] = [
  X509_V.X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT,
  X509_V.X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
  X509_V.X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT,
  X509_V.X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN,
  X509_V.X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE,
  X509_V.X509_V_ERR_CERT_UNTRUSTED,
  X509_V.X509_V_ERR_HOSTNAME_MISMATCH,
  X509_V.X509_V_ERR_IP_ADDRESS_MISMATCH,
];

type VerifyCallback = Deno.UnsafeCallback<
  { readonly parameters: readonly ["i32", "pointer"]; readonly result: "i32" }
>;

let refused: Uint8Array | undefined;

/** The certificate that libssl has refused last in this thread, DER; asked for once. */
export function takeRefusedCertificate(): Uint8Array | undefined {
  const taken = refused;
  refused = undefined;
  return taken;
}

/**
 * What libssl asks about each certificate of a peer's chain (SSL_CTX_set_verify(3)): refuses an
 * authority's as the peer's own, as libssl does not, and keeps what was refused for the message.
 * One for all connections, as long as the thread lives: contexts outlive their owners.
 */
export const verifyAuthorities: () => VerifyCallback = once((ok, context) => {
  const crypto = libcrypto();
  const leaf = crypto.X509_STORE_CTX_get_error_depth(context) === 0;
  const certificate = crypto.X509_STORE_CTX_get_current_cert(context);
  if (ok === 1 && !(leaf && crypto.X509_check_ca(certificate) > 0)) return 1;
  if (ok === 1) crypto.X509_STORE_CTX_set_error(context, X509_V.X509_V_ERR_INVALID_NON_CA);
  refused = certificate === null ? undefined : derOf(certificate);
  return 0;
});

/** The same where only the key counts: that is looked at after the handshake. */
export const verifyPinned: () => VerifyCallback = once((ok, context) => {
  const error = libcrypto().X509_STORE_CTX_get_error(context);
  return ok === 1 || immaterialToPins.includes(error) ? 1 : 0;
});

function once(
  verify: (ok: number, context: Deno.PointerValue) => number,
): () => VerifyCallback {
  let callback: VerifyCallback | undefined;
  const definition = { parameters: ["i32", "pointer"], result: "i32" } as const;
  return () => callback ??= new Deno.UnsafeCallback(definition, verify);
}

/**
 * Checks a server's key.
 *
 * @param ssl after the handshake
 * @throws UnknownKeyError if there are pins, and none is its key's
 */
export function checkPins(ssl: Deno.PointerObject, peer: Endpoint, pins: readonly string[]): void {
  if (pins.length === 0) return;
  const [certificate] = peerCertificatesOf(ssl);
  const pin = certificatePin(certificate!);
  if (!pins.includes(pin)) throw new UnknownKeyError(peer, pin);
}

/**
 * The pin of a certificate's key.
 *
 * @param der of the certificate
 */
export function certificatePin(der: Uint8Array): string {
  using certificate = parseCertificate(der);
  return pinOf(publicKeyOf(certificate.pointer));
}

/** The names that a certificate is for, in words; undefined where it has none. */
export function namesOf(certificate: Uint8Array): string | undefined {
  const { subjectAltName } = new X509Certificate(certificate);
  return subjectAltName?.replaceAll(/(^|, )(DNS|IP Address):/g, "$1").replaceAll(", ", " or ");
}

/** The verified chain; of a resumed session the leaf alone, as tickets have no room for more. */
export function peerCertificatesOf(ssl: Deno.PointerObject): Uint8Array[] {
  const { SSL_get0_verified_chain, SSL_get1_peer_certificate } = libssl();
  const { OPENSSL_sk_num, OPENSSL_sk_value, X509_free } = libcrypto();
  const leaf = SSL_get1_peer_certificate(ssl);
  if (leaf === null) return [];
  try {
    const chain = SSL_get0_verified_chain(ssl);
    if (chain === null) return [derOf(leaf)];
    return Array.from(
      { length: OPENSSL_sk_num(chain) },
      (_, index) => derOf(OPENSSL_sk_value(chain, index)),
    );
  } finally {
    X509_free(leaf);
  }
}

/** The SubjectPublicKeyInfo, DER. */
function publicKeyOf(certificate: Deno.PointerValue): Uint8Array {
  const { X509_get_X509_PUBKEY, i2d_X509_PUBKEY } = libcrypto();
  const key = X509_get_X509_PUBKEY(certificate);
  return encoded((target) => i2d_X509_PUBKEY(key, target));
}

/** A certificate in DER. */
export function derOf(certificate: Deno.PointerValue): Uint8Array {
  return encoded((target) => libcrypto().i2d_X509(certificate, target));
}

/** DER, as one of the i2d functions writes it (d2i_X509(3)): first how long, then what. */
function encoded(write: (target: Deno.PointerValue) => number): Uint8Array {
  const bytes = new Uint8Array(write(null));
  const cursor = BigUint64Array.of(Deno.UnsafePointer.value(Deno.UnsafePointer.of(bytes)));
  write(Deno.UnsafePointer.of(cursor));
  return bytes;
}
