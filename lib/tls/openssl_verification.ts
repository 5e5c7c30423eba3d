import { X509Certificate } from "node:crypto";
import { lastingCallback } from "../../ffi/callback.ts";
import { cString } from "../../ffi/layout.ts";
import { libcrypto } from "../../ffi/libcrypto.ts";
import { libssl, X509_V } from "../../ffi/libssl.ts";
import { TlsError } from "../errors.ts";
import { type Endpoint, endpointText } from "./connection.ts";
import type { KnownRefusal } from "./credentials.ts";
import { pinOf } from "./pin.ts";
import { believesKeysAlone, type Trust } from "./trust.ts";
import { clearErrors } from "./openssl_error.ts";
import { CryptoObject, parseCertificate, stackOf } from "./x509.ts";

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

/** SSL_verify_cb. */
const verification = { parameters: ["i32", "pointer"], result: "i32" } as const;

/** What is asked of a peer's own certificate, besides what libssl asks of each. */
export interface LeafChecks {
  /** A server whose key is none of these, if there are any, is refused before it is shown this side's certificate. */
  readonly pins?: readonly string[];
  readonly knownRefusal?: KnownRefusal | undefined;
}

/** What the handshake at work in this thread asks, and what it has refused. */
let checks: LeafChecks = {};
let refused: Uint8Array | undefined;

/**
 * Goes on with a handshake.
 *
 * @param step a call of libssl that may verify the peer
 * @returns what it gave, and the certificate that it has refused, DER
 */
export function verifying(
  wanted: LeafChecks,
  step: () => number,
): { readonly result: number; readonly refused: Uint8Array | undefined } {
  const outer = { checks, refused };
  checks = wanted;
  refused = undefined;
  try {
    return { result: step(), refused };
  } finally {
    ({ checks, refused } = outer);
  }
}

/** Who is looked at again, on which occasion. */
interface Reverification {
  /** DER: the peer's own first, then those of its authorities. */
  readonly certificates: readonly Uint8Array[];
  readonly purpose: "ssl_client" | "ssl_server";
  /** SSL_CTX, with what is believed now. */
  readonly context: Deno.PointerObject;
  /** With the name that the peer must have, if any. */
  readonly ssl: Deno.PointerObject;
  /** Of {@linkcode verifierFor}. */
  readonly verifier: Deno.PointerObject;
  /** Those of the handshake at work unless told. */
  readonly checks?: LeafChecks;
}

/**
 * Whether certificates of an earlier handshake would pass in one now: libssl asks that only where a
 * session is not resumed. Asks what it asks (ssl_verify_cert_chain in ssl_cert.c).
 */
export function isStillBelieved(
  { certificates, purpose, context, ssl, verifier, checks: wanted = checks }: Reverification,
): boolean {
  const crypto = libcrypto();
  const { SSL_CTX_get_cert_store, SSL_get0_param, SSL_get_security_level } = libssl();
  using parsed = new DisposableStack();
  const [leaf, ...others] = certificates.map((der) => parsed.use(parseCertificate(der)));
  if (!leaf) return false;
  const untrusted = parsed.use(stackOf(...others));
  const { X509_STORE_CTX_new, X509_STORE_CTX_free } = crypto;
  const { pointer } = parsed.use(new CryptoObject(X509_STORE_CTX_new(), X509_STORE_CTX_free));
  const store = SSL_CTX_get_cert_store(context);
  crypto.X509_STORE_CTX_init(pointer, store, leaf.pointer, untrusted.pointer);
  const parameters = crypto.X509_STORE_CTX_get0_param(pointer);
  crypto.X509_VERIFY_PARAM_set_auth_level(parameters, SSL_get_security_level(ssl));
  crypto.X509_STORE_CTX_set_default(pointer, cString(purpose));
  crypto.X509_VERIFY_PARAM_set1(parameters, SSL_get0_param(ssl));
  crypto.X509_STORE_CTX_set_verify_cb(pointer, verifier);
  const { result } = verifying(wanted, () => crypto.X509_verify_cert(pointer));
  clearErrors();
  return result === 1;
}

/**
 * What libssl asks about each certificate of a peer's chain (SSL_CTX_set_verify(3)): refuses an
 * authority's as the peer's own, as libssl does not, and keeps what was refused for the message.
 */
export const verifyAuthorities = lastingCallback(verification, (ok, context) => {
  if (ok !== 1) return refuse(context);
  return isLeaf(context) && libcrypto().X509_check_ca(currentCertificate(context)) > 0
    ? refuse(context, X509_V.X509_V_ERR_INVALID_NON_CA)
    : verifyLeaf(context);
});

/** The same where only the key counts. */
const verifyPinned = lastingCallback(verification, (ok, context) => {
  // Another key says more than whatever else is wrong with the certificate.
  if (ok === 1 || (isLeaf(context) && !isPinned(context))) return verifyLeaf(context);
  const error = libcrypto().X509_STORE_CTX_get_error(context);
  return immaterialToPins.includes(error) ? 1 : refuse(context);
});

/** Asks what is to be asked of a server; without trust of one whose key is to be looked at. */
export function verifierFor(trust: Trust | undefined): Deno.PointerObject {
  return !trust || believesKeysAlone(trust) ? verifyPinned() : verifyAuthorities();
}

/** Each chain ends with the question about the leaf that nothing else speaks against. */
function verifyLeaf(context: Deno.PointerValue): number {
  const { knownRefusal } = checks;
  if (!isLeaf(context)) return 1;
  const known = knownRefusal && refusalOf(context, knownRefusal);
  if (known) return refuse(context, refusalErrors[known]);
  return isPinned(context) ? 1 : refuse(context, X509_V.X509_V_ERR_CERT_REJECTED);
}

function isPinned(context: Deno.PointerValue): boolean {
  const { pins = [] } = checks;
  return pins.length === 0 || pins.includes(pinOf(publicKeyOf(currentCertificate(context))));
}

/** Libssl answers the first with the alert certificate_revoked, the second with certificate_unknown. */
const refusalErrors = {
  revoked: X509_V.X509_V_ERR_CERT_REVOKED,
  unknown: X509_V.X509_V_ERR_OCSP_CERT_UNKNOWN,
} as const;

/** A certificate that is believed itself has nobody behind it to speak against it. */
function refusalOf(context: Deno.PointerValue, knownRefusal: KnownRefusal) {
  const { X509_STORE_CTX_get0_chain, OPENSSL_sk_num, OPENSSL_sk_value } = libcrypto();
  const chain = X509_STORE_CTX_get0_chain(context);
  if (OPENSSL_sk_num(chain) < 2) return undefined;
  return knownRefusal(derOf(OPENSSL_sk_value(chain, 0)), derOf(OPENSSL_sk_value(chain, 1)));
}

function refuse(context: Deno.PointerValue, error?: number): number {
  if (error !== undefined) libcrypto().X509_STORE_CTX_set_error(context, error);
  const certificate = currentCertificate(context);
  refused = certificate === null ? undefined : derOf(certificate);
  return 0;
}

function isLeaf(context: Deno.PointerValue): boolean {
  return libcrypto().X509_STORE_CTX_get_error_depth(context) === 0;
}

function currentCertificate(context: Deno.PointerValue): Deno.PointerValue {
  return libcrypto().X509_STORE_CTX_get_current_cert(context);
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
