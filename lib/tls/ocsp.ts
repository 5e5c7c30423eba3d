import { addressOf, pointerAt, pointerOf } from "../../ffi/layout.ts";
import { libcrypto } from "../../ffi/libcrypto.ts";
import { libcryptoOcsp, OCSP } from "../../ffi/libcrypto_ocsp.ts";
import { errorText, TlsError } from "../errors.ts";
import { clearErrors, errorReason } from "./openssl_error.ts";
import {
  CryptoObject,
  fromDer,
  libcryptoFailed,
  parseCertificate,
  stackOf,
  timeOf,
} from "./x509.ts";

/** What a responder says of a certificate (RFC 6960, section 2.2). Times are milliseconds since 1970. */
export interface OcspAnswer {
  readonly status: "good" | "revoked" | "unknown";
  /** Such as `keyCompromise` (RFC 5280, section 5.3.1), where the responder gives one. */
  readonly revocationReason?: string;
  /** When this was known to be right. */
  readonly thisUpdate: number;
  /** When more will be known; without it, a responder could always be asked for something newer. */
  readonly nextUpdate?: number;
}

/** How far the clocks of two machines may be apart, in milliseconds. */
const clockSkew = 5 * 60_000;

const checkClocks = "Check the clocks of both machines, and that the responder is kept up to date";
const notToBeTrusted = "Tell the authority, and look for who could have changed its answer";

/**
 * A request for the status of a certificate (RFC 6960, section 4.1).
 *
 * @param certificate DER
 * @param issuer certificate of who has signed it, DER
 * @param nonce 1 to 32 random bytes (RFC 9654), which the response has to repeat
 * @returns DER
 * @throws TlsError `certificate_malformed`
 */
export function ocspRequest(
  certificate: Uint8Array,
  issuer: Uint8Array,
  nonce?: Uint8Array,
): Uint8Array<ArrayBuffer> {
  const { OCSP_request_add0_id, OCSP_CERTID_free, i2d_OCSP_REQUEST } = libcryptoOcsp();
  using subject = parseCertificate(certificate);
  using authority = parseCertificate(issuer);
  using request = emptyRequest(nonce);
  // Responders need not know another hash than SHA-1, which is only to tell issuers apart here.
  const id = certificateId(libcrypto().EVP_sha1(), subject, authority);
  if (OCSP_request_add0_id(request.pointer, id) === null) {
    OCSP_CERTID_free(id);
    throw libcryptoFailed();
  }
  const length = i2d_OCSP_REQUEST(request.pointer, null);
  if (length <= 0) throw libcryptoFailed();
  const der = new Uint8Array(length);
  i2d_OCSP_REQUEST(request.pointer, new BigUint64Array([addressOf(pointerOf(der))]));
  return der;
}

/**
 * Reads a response and checks that the issuer, or whom it has named to speak for it (a certificate
 * with the extended key usage OCSPSigning), says it now and of this certificate (RFC 6960, sections
 * 3.2 and 4.2.2.2). A responder may leave the nonce out, as those do that sign ahead of time.
 *
 * @param response DER
 * @param certificate DER
 * @param issuer certificate of who has signed it, DER, itself verified
 * @param options.nonce that of the request
 * @param options.now milliseconds since 1970
 * @throws TlsError `ocsp_malformed`, `ocsp_no_answer`, `ocsp_untrusted`, `ocsp_nonce`,
 * `ocsp_other_certificate`, `ocsp_early`, `ocsp_expired`, `certificate_malformed`
 */
export function checkOcspResponse(
  response: Uint8Array,
  certificate: Uint8Array,
  issuer: Uint8Array,
  { nonce, now = Date.now() }: { nonce?: Uint8Array; now?: number } = {},
): OcspAnswer {
  using subject = parseCertificate(certificate);
  using authority = parseCertificate(issuer);
  using basic = parseResponse(response);
  checkSignature(basic, authority, now);
  if (nonce) checkNonce(basic, nonce);
  const answer = findAnswer(basic, subject, authority);
  checkTimes(answer, now);
  return answer;
}

/**
 * Where a certificate says that its status is to be asked (RFC 5280, section 4.2.2.1): the first
 * `http:` URL. Undefined if there is none.
 *
 * @param certificate DER
 * @throws TlsError `certificate_malformed` for what names one and is no certificate
 */
export async function responderUrl(certificate: Uint8Array): Promise<URL | undefined> {
  if (!namesResponder(certificate)) return undefined;
  return (await responderNames(certificate)).map((name) => URL.parse(name))
    .find((url) => url?.protocol === "http:" && url.username === "" && url.password === "") ??
    undefined;
}

/** id-ad-ocsp as DER has it, which begins each URL of a responder (RFC 5280, section 4.2.2.1). */
const RESPONDER_ID = [0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01];

/** Whether a certificate, DER, names a responder, be it one that can be asked or not. */
function namesResponder(certificate: Uint8Array): boolean {
  return certificate.some((_, at) =>
    RESPONDER_ID.every((octet, index) => certificate[at + index] === octet)
  );
}

/** Without libcrypto, as a server looks at its own certificate also where that is missing. */
async function responderNames(certificate: Uint8Array): Promise<string[]> {
  // Loaded by those alone who need it: it takes as long as all else of a client together.
  const x509 = await import("./peculiar_x509.ts");
  try {
    const { ocsp = [] } = new x509.X509Certificate(new Uint8Array(certificate))
      .getExtension(x509.AuthorityInfoAccessExtension) ?? {};
    return ocsp.filter(({ type }) => type === "url").map(({ value }) => value);
  } catch (cause) {
    throw new TlsError(
      "certificate_malformed",
      `A certificate cannot be read: ${errorText(cause)}`,
      "Check what openssl x509 says of it",
      { cause },
    );
  }
}

function emptyRequest(nonce?: Uint8Array): CryptoObject {
  const { OCSP_REQUEST_new, OCSP_REQUEST_free, OCSP_request_add1_nonce } = libcryptoOcsp();
  clearErrors();
  const request = new CryptoObject(OCSP_REQUEST_new(), OCSP_REQUEST_free);
  if (nonce) {
    const bytes = new Uint8Array(nonce);
    if (OCSP_request_add1_nonce(request.pointer, bytes, bytes.length) !== 1) {
      request[Symbol.dispose]();
      throw libcryptoFailed();
    }
  }
  return request;
}

function certificateId(
  digest: Deno.PointerValue,
  subject: CryptoObject,
  issuer: CryptoObject,
): Deno.PointerObject {
  clearErrors();
  const id = libcryptoOcsp().OCSP_cert_to_id(digest, subject.pointer, issuer.pointer);
  if (id === null) throw libcryptoFailed();
  return id;
}

/** The signed part (`OCSP_BASICRESP *`) of a response. */
function parseResponse(der: Uint8Array): CryptoObject {
  const {
    d2i_OCSP_RESPONSE,
    OCSP_RESPONSE_free,
    OCSP_response_status,
    OCSP_response_status_str,
    OCSP_response_get1_basic,
    OCSP_BASICRESP_free,
  } = libcryptoOcsp();
  const parsed = fromDer(der, d2i_OCSP_RESPONSE, OCSP_RESPONSE_free);
  if (!parsed) throw malformed();
  using response = parsed;
  const status = OCSP_response_status(response.pointer);
  if (status !== OCSP.OCSP_RESPONSE_STATUS_SUCCESSFUL) {
    throw new TlsError(
      "ocsp_no_answer",
      `The OCSP responder gives no answer but ${
        stringAt(OCSP_response_status_str(BigInt(status)))
      }`,
      "Ask the authority whether its responder knows this certificate, or try again later",
    );
  }
  const basic = OCSP_response_get1_basic(response.pointer);
  if (basic === null) throw malformed();
  return new CryptoObject(basic, OCSP_BASICRESP_free);
}

function malformed(): TlsError {
  return new TlsError(
    "ocsp_malformed",
    "What should be an OCSP response is none",
    "Check what answers at the responder's URL",
  );
}

/** Nobody is believed here but the issuer, and whose certificate it has signed for the purpose. */
function checkSignature(basic: CryptoObject, issuer: CryptoObject, now: number): void {
  const {
    X509_STORE_new,
    X509_STORE_free,
    X509_STORE_add_cert,
    X509_STORE_get0_param,
    X509_VERIFY_PARAM_set_time,
  } = libcrypto();
  clearErrors();
  using store = new CryptoObject(X509_STORE_new(), X509_STORE_free);
  if (X509_STORE_add_cert(store.pointer, issuer.pointer) !== 1) throw libcryptoFailed();
  const seconds = BigInt(Math.floor(now / 1000));
  X509_VERIFY_PARAM_set_time(X509_STORE_get0_param(store.pointer), seconds);
  using issuers = stackOf(issuer);
  const flags = BigInt(OCSP.OCSP_PARTIAL_CHAIN | OCSP.OCSP_NOEXPLICIT);
  const verified = libcryptoOcsp().OCSP_basic_verify(
    basic.pointer,
    issuers.pointer,
    store.pointer,
    flags,
  );
  if (verified === 1) return;
  throw new TlsError(
    "ocsp_untrusted",
    "The OCSP response is signed neither by the certificate's issuer nor by a responder that " +
      `the issuer has named: ${errorReason()}`,
    notToBeTrusted,
  );
}

function checkNonce(basic: CryptoObject, nonce: Uint8Array): void {
  using request = emptyRequest(nonce);
  // 0: the two differ; 1: they are equal; -1: the response has none.
  if (libcryptoOcsp().OCSP_check_nonce(request.pointer, basic.pointer) !== 0) return;
  throw new TlsError(
    "ocsp_nonce",
    "The OCSP response belongs to another request: its nonce is not the one that was sent",
    notToBeTrusted,
  );
}

const statuses = {
  [OCSP.V_OCSP_CERTSTATUS_GOOD]: "good",
  [OCSP.V_OCSP_CERTSTATUS_REVOKED]: "revoked",
  [OCSP.V_OCSP_CERTSTATUS_UNKNOWN]: "unknown",
} as const;

/** The first answer on this certificate, by whichever hash the responder calls its issuer. */
function findAnswer(basic: CryptoObject, subject: CryptoObject, issuer: CryptoObject): OcspAnswer {
  const { OCSP_CERTID_free, OCSP_resp_find_status } = libcryptoOcsp();
  const { EVP_sha1, EVP_sha256 } = libcrypto();
  const status = new Int32Array(1);
  // Left as it is where the certificate is not revoked.
  const reason = new Int32Array([OCSP.OCSP_REVOKED_STATUS_NOSTATUS]);
  const [thisUpdate, nextUpdate] = [new BigUint64Array(1), new BigUint64Array(1)];
  for (const digest of [EVP_sha1(), EVP_sha256()]) {
    using id = new CryptoObject(certificateId(digest, subject, issuer), OCSP_CERTID_free);
    const found = OCSP_resp_find_status(
      basic.pointer,
      id.pointer,
      status,
      reason,
      null,
      thisUpdate,
      nextUpdate,
    );
    if (found !== 1) continue;
    return {
      status: statuses[status[0] as keyof typeof statuses],
      ...(reason[0] === OCSP.OCSP_REVOKED_STATUS_NOSTATUS
        ? {}
        : { revocationReason: reasonText(reason[0]!) }),
      thisUpdate: timeAt(thisUpdate[0]!),
      ...(nextUpdate[0] === 0n ? {} : { nextUpdate: timeAt(nextUpdate[0]!) }),
    };
  }
  throw new TlsError(
    "ocsp_other_certificate",
    "The OCSP response says nothing of the certificate in question",
    "Check what answers at the responder's URL",
  );
}

function reasonText(reason: number): string {
  return stringAt(libcryptoOcsp().OCSP_crl_reason_str(BigInt(reason)));
}

function timeAt(address: bigint): number {
  const time = timeOf(pointerAt(address));
  if (time === undefined) throw malformed();
  return time;
}

/** Until when an answer is to be passed on, in milliseconds since 1970. */
export function freshUntil({ thisUpdate, nextUpdate = thisUpdate + clockSkew }: OcspAnswer) {
  return nextUpdate;
}

function checkTimes({ thisUpdate, nextUpdate = thisUpdate }: OcspAnswer, now: number): void {
  if (thisUpdate > now + clockSkew) {
    throw new TlsError(
      "ocsp_early",
      `The OCSP response is not valid before ${new Date(thisUpdate).toISOString()}`,
      checkClocks,
    );
  }
  if (nextUpdate < now - clockSkew) {
    throw new TlsError(
      "ocsp_expired",
      `The OCSP response expired on ${new Date(nextUpdate).toISOString()}`,
      checkClocks,
    );
  }
}

function stringAt(pointer: Deno.PointerValue): string {
  return pointer === null ? "" : new Deno.UnsafePointerView(pointer).getCString();
}
