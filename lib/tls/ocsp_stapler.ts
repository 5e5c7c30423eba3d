import { isDeepStrictEqual } from "node:util";
import { TlsError, toPlainError } from "../errors.ts";
import { logger } from "../telemetry/log.ts";
import { freshUntil, responderUrl } from "./ocsp.ts";
import { askResponder, type OcspResponse } from "./ocsp_request.ts";
import type { Identity } from "./trust.ts";
import { decodePem, findIssuer } from "./x509.ts";

const log = logger("tls");

/** How soon to ask again after a failure, and at the earliest after an answer, in milliseconds. */
const retryMilliseconds = 30_000;
/** How long a good answer is left alone at most, in milliseconds. */
const longestPause = 24 * 60 * 60_000;

/**
 * A stapler for a server's identity; undefined if its certificate names no responder.
 *
 * @param authorities certificates, PEM, of which one may be its issuer's, where the identity itself
 * does not have that
 * @param before one that there is; it is the result if it is for the same certificate and issuer
 */
export async function staplerFor(
  { certificate }: Pick<Identity, "certificate">,
  authorities: readonly string[],
  before?: OcspStapler,
): Promise<OcspStapler | undefined> {
  const [leaf, ...others] = [certificate, ...authorities]
    .flatMap((pem) => decodePem(pem, "CERTIFICATE"));
  if (leaf === undefined || await responderUrl(leaf) === undefined) return undefined;
  return before?.isFor(leaf, others) ? before : new OcspStapler(leaf, others);
}

/**
 * Keeps the response of the authority's responder on a server's own certificate at hand, to be sent
 * in handshakes (stapled; RFC 6066, section 8). Asks for a new one at half of its time, and twice a
 * minute where there was no answer. For certificates that name a responder.
 */
export class OcspStapler implements Disposable {
  /** Settles after the first answer or failure, in 5 seconds at most. */
  readonly ready: Promise<void>;
  #current: OcspResponse | undefined;
  /** Code of what has been logged last; undefined once there was an answer. */
  #failure: string | undefined;
  #timer: number | undefined;
  readonly #end = new AbortController();
  readonly #certificate: Uint8Array;
  readonly #issuer: Uint8Array | undefined;

  /**
   * @param certificate DER
   * @param authorities certificates of which one is that of its issuer, DER
   */
  constructor(certificate: Uint8Array, authorities: readonly Uint8Array[]) {
    this.#certificate = certificate;
    this.#issuer = findIssuer(certificate, authorities);
    this.ready = this.#refresh();
  }

  /** The response, DER; undefined if there is none that says now that the certificate is good. */
  get response(): Uint8Array<ArrayBuffer> | undefined {
    if (this.#current === undefined) return undefined;
    const { answer, der } = this.#current;
    return Date.now() < freshUntil(answer) ? der : undefined;
  }

  /** Whether a stapler with these parameters would ask the same question, so that this one does. */
  isFor(certificate: Uint8Array, authorities: readonly Uint8Array[]): boolean {
    const issuer = findIssuer(certificate, authorities);
    return isDeepStrictEqual([certificate, issuer], [this.#certificate, this.#issuer]);
  }

  [Symbol.dispose](): void {
    this.#end.abort();
    clearTimeout(this.#timer);
    this.#current = undefined;
  }

  async #refresh(): Promise<void> {
    let pause = retryMilliseconds;
    try {
      const current = await this.#ask();
      this.#end.signal.throwIfAborted();
      const half = (freshUntil(current.answer) - Date.now()) / 2;
      pause = Math.min(Math.max(half, retryMilliseconds), longestPause);
      this.#current = current;
      if (this.#failure !== undefined) log.info("this server has an OCSP response again");
      this.#failure = undefined;
    } catch (error) {
      if (this.#end.signal.aborted) return;
      this.#fail(error);
    }
    this.#timer = setTimeout(() => this.#refresh(), pause);
  }

  async #ask(): Promise<OcspResponse> {
    if (this.#issuer === undefined) throw noIssuer();
    const response = await askResponder(this.#certificate, this.#issuer, {
      signal: this.#end.signal,
    });
    if (response.answer.status === "good") return response;
    // What was good until now is no longer to be shown.
    this.#current = undefined;
    throw notGood(response);
  }

  #fail(error: unknown): void {
    const { code, message, remedy } = toPlainError(error);
    if (this.#failure === code) return;
    this.#failure = code;
    log.warning("this server has no new OCSP response to staple", { reason: message, remedy });
  }
}

function noIssuer(): TlsError {
  return new TlsError(
    "ocsp_no_issuer",
    "The authority that has signed this server's certificate is not known",
    "Append the authority's certificate to the file that --cert names",
  );
}

function notGood({ answer: { status, revocationReason } }: OcspResponse): TlsError {
  const why = revocationReason === undefined ? "" : ` (${revocationReason})`;
  return new TlsError(
    "certificate_revoked",
    status === "revoked"
      ? `This server's certificate is revoked${why}`
      : "The authority's responder does not know this server's certificate",
    "Have a new certificate issued",
  );
}
