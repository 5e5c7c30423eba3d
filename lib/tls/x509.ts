import { addressOf, pointerOf } from "../../ffi/layout.ts";
import { libcrypto } from "../../ffi/libcrypto.ts";
import { TlsError } from "../errors.ts";
import { clearErrors, errorReason } from "./openssl_error.ts";

/** An object of libcrypto's that is owned here, and freed once. */
export class CryptoObject implements Disposable {
  #pointer: Deno.PointerValue;
  readonly #free: (pointer: Deno.PointerValue) => void;

  /**
   * @param pointer what a call has returned to be freed by its caller
   * @throws TlsError `libcrypto_failed` if it has returned null
   */
  constructor(pointer: Deno.PointerValue, free: (pointer: Deno.PointerValue) => void) {
    if (pointer === null) throw libcryptoFailed();
    this.#pointer = pointer;
    this.#free = free;
  }

  get pointer(): Deno.PointerObject {
    if (this.#pointer === null) throw new TypeError("an object of libcrypto is used once freed");
    return this.#pointer;
  }

  [Symbol.dispose](): void {
    const pointer = this.#pointer;
    this.#pointer = null;
    if (pointer !== null) this.#free(pointer);
  }
}

/**
 * DER of all that PEM holds under a label (RFC 7468).
 *
 * @throws SyntaxError if what is between the lines is not base64
 */
export function decodePem(text: string, label: "CERTIFICATE" | "X509 CRL"): Uint8Array[] {
  const blocks = text.matchAll(
    new RegExp(`-----BEGIN ${label}-----([^-]+)-----END ${label}-----`, "g"),
  );
  return [...blocks].map(([, base64]) => Uint8Array.fromBase64(base64!));
}

/** A function of the form `T *d2i_T(T **out, const unsigned char **in, long length)`. */
type Decode = (out: null, input: BufferSource, length: bigint) => Deno.PointerValue;

/** What DER stands for; undefined unless all of it is one such object. */
export function fromDer(
  der: Uint8Array,
  decode: Decode,
  free: (pointer: Deno.PointerValue) => void,
): CryptoObject | undefined {
  const bytes = new Uint8Array(der);
  const begin = addressOf(pointerOf(bytes));
  const position = new BigUint64Array([begin]);
  clearErrors();
  const pointer = decode(null, position, BigInt(bytes.length));
  if (pointer === null) return undefined;
  if (position[0] === begin + BigInt(bytes.length)) return new CryptoObject(pointer, free);
  free(pointer);
  return undefined;
}

/**
 * A certificate (`X509 *`) out of its DER.
 *
 * @throws TlsError `certificate_malformed` if it is none
 */
export function parseCertificate(der: Uint8Array): CryptoObject {
  const { d2i_X509, X509_free } = libcrypto();
  const certificate = fromDer(der, d2i_X509, X509_free);
  if (certificate) return certificate;
  throw new TlsError(
    "certificate_malformed",
    `A certificate cannot be read: ${errorReason()}`,
    "Check what openssl x509 says of it",
  );
}

/**
 * That of `candidates` whose name and key the certificate has been signed with (RFC 5280, sections
 * 4.1.2.4 and 6.1.3). A peer may show certificates that have nothing to do with its own.
 *
 * @param certificate DER, and so are the candidates
 * @throws TlsError `certificate_malformed` if one of them is none
 */
export function findIssuer(
  certificate: Uint8Array,
  candidates: Iterable<Uint8Array>,
): Uint8Array | undefined {
  using subject = parseCertificate(certificate);
  for (const candidate of candidates) {
    using issuer = parseCertificate(candidate);
    if (hasIssued(issuer, subject)) return candidate;
  }
  return undefined;
}

function hasIssued(issuer: CryptoObject, subject: CryptoObject): boolean {
  const { X509_check_issued, X509_get0_pubkey, X509_verify } = libcrypto();
  clearErrors();
  if (X509_check_issued(issuer.pointer, subject.pointer) !== 0) return false;
  const verified = X509_verify(subject.pointer, X509_get0_pubkey(issuer.pointer)) === 1;
  clearErrors();
  return verified;
}

/** Certificates (`STACK_OF(X509) *`), which must outlive the stack. */
export function stackOf(...certificates: CryptoObject[]): CryptoObject {
  const { OPENSSL_sk_new_null, OPENSSL_sk_push, OPENSSL_sk_free } = libcrypto();
  const stack = new CryptoObject(OPENSSL_sk_new_null(), OPENSSL_sk_free);
  for (const certificate of certificates) OPENSSL_sk_push(stack.pointer, certificate.pointer);
  return stack;
}

/** A moment (`const ASN1_TIME *`), in milliseconds since 1970; undefined if it is malformed. */
export function timeOf(time: Deno.PointerValue): number | undefined {
  const { ASN1_TIME_set, ASN1_TIME_free, ASN1_TIME_diff } = libcrypto();
  using epoch = new CryptoObject(ASN1_TIME_set(null, 0n), ASN1_TIME_free);
  const [days, seconds] = [new Int32Array(1), new Int32Array(1)];
  clearErrors();
  if (ASN1_TIME_diff(days, seconds, epoch.pointer, time) !== 1) return undefined;
  return (days[0]! * 86_400 + seconds[0]!) * 1000;
}

/** A call failed that fails for want of memory only. */
export function libcryptoFailed(): TlsError {
  return new TlsError(
    "libcrypto_failed",
    `OpenSSL cannot go on: ${errorReason()}`,
    "Look at the memory of this machine",
  );
}
