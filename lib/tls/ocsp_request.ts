import { errorText, TlsError } from "../errors.ts";
import { checkOcspResponse, type OcspAnswer, ocspRequest, responderUrl } from "./ocsp.ts";

/** Bytes of a response that are read at most; usual ones have one or two thousand. */
const mostBytes = 65_536;

/** As RFC 9654 wants it (section 2.1), in bytes. */
const nonceBytes = 32;

/** How long a responder may take unless told, in seconds. */
export const usualAnswerSeconds = 5;

/** What a responder has said, and its own words for it. */
export interface OcspResponse {
  readonly answer: OcspAnswer;
  readonly der: Uint8Array<ArrayBuffer>;
}

/**
 * Asks the responder that a certificate names for its status, by HTTP (RFC 6960, appendix A). The
 * certificate has to be verified: nobody but its authority may choose whom this machine talks to.
 *
 * @param certificate DER
 * @param issuer certificate of who has signed it, DER, itself verified
 * @param options.nonce asks for an answer to this very request, not one signed ahead of time
 * @throws TlsError `ocsp_no_responder`, `ocsp_timeout`, `ocsp_unreachable`, `ocsp_http_status`,
 * `ocsp_too_large`, and those of {@linkcode checkOcspResponse}; the reason of `options.signal`
 */
export async function askResponder(
  certificate: Uint8Array,
  issuer: Uint8Array,
  { nonce: withNonce = false, answerSeconds = usualAnswerSeconds, signal }: {
    nonce?: boolean;
    answerSeconds?: number;
    signal?: AbortSignal;
  } = {},
): Promise<OcspResponse> {
  const url = await responderUrl(certificate);
  if (url === undefined) throw noResponder();
  const nonce = withNonce ? crypto.getRandomValues(new Uint8Array(nonceBytes)) : undefined;
  const deadline = AbortSignal.timeout(answerSeconds * 1000);
  try {
    const der = await post(url, ocspRequest(certificate, issuer, nonce), {
      signal: AbortSignal.any([deadline, ...(signal ? [signal] : [])]),
    });
    return { answer: checkOcspResponse(der, certificate, issuer, nonce ? { nonce } : {}), der };
  } catch (error) {
    signal?.throwIfAborted();
    if (deadline.aborted) throw timeout(url, answerSeconds);
    if (error instanceof TlsError) throw error;
    throw failure("ocsp_unreachable", url, `cannot be reached: ${errorText(error)}`, error);
  }
}

async function post(
  url: URL,
  body: Uint8Array<ArrayBuffer>,
  { signal }: { signal: AbortSignal },
): Promise<Uint8Array<ArrayBuffer>> {
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/ocsp-request", "accept": "application/ocsp-response" },
    body,
    // Elsewhere is where the certificate has not said.
    redirect: "manual",
    signal,
  });
  if (response.status === 200) return await readBody(url, response);
  await response.body?.cancel();
  throw failure("ocsp_http_status", url, `answers with HTTP status ${response.status}`);
}

async function readBody(url: URL, response: Response): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  let length = 0;
  for await (const chunk of response.body ?? []) {
    length += chunk.length;
    if (length > mostBytes) {
      throw failure("ocsp_too_large", url, `answers with more than ${mostBytes} bytes`);
    }
    chunks.push(chunk);
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}

function noResponder(): TlsError {
  return new TlsError(
    "ocsp_no_responder",
    "The certificate names no OCSP responder that can be asked by http",
    "Have it issued with a responder's URL, or do without OCSP",
  );
}

function timeout(url: URL, seconds: number): TlsError {
  return failure("ocsp_timeout", url, `did not answer within ${seconds} seconds`);
}

function failure(code: string, url: URL, what: string, cause?: unknown): TlsError {
  return new TlsError(
    code,
    `The OCSP responder ${url.host} ${what}`,
    "Check that it runs, and that this machine may connect to it",
    { cause },
  );
}
