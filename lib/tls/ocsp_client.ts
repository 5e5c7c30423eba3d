import { createHash } from "node:crypto";
import type { KnownRefusal } from "./credentials.ts";
import type { OcspAnswer } from "./ocsp.ts";
import { askResponder, usualAnswerSeconds } from "./ocsp_request.ts";

/** Longest that an answer is kept: what is revoked meanwhile is noticed after that, in milliseconds. */
const longest = 60 * 60_000;
/** How long it is before a responder is asked again that had no lasting answer, in milliseconds. */
const shortest = 5_000;
/** Certificates whose answers are kept at most. */
const mostAnswers = 1000;

interface Kept {
  readonly answer: Promise<OcspAnswer>;
  /** Undefined until it has come. */
  status?: OcspAnswer["status"];
  /** When to ask again, in milliseconds since 1970. */
  until: number;
}

/**
 * Asks for the status of certificates, and keeps the answers until the responder has new ones to
 * give, an hour at most. Who asks for the same at the same time gets the same answer.
 */
export class OcspClient implements Disposable {
  readonly #kept = new Map<string, Kept>();
  readonly #end = new AbortController();
  readonly #answerSeconds: number;

  /** @param options.answerSeconds how long a responder may take; 5 unless told */
  constructor({ answerSeconds = usualAnswerSeconds }: { answerSeconds?: number } = {}) {
    this.#answerSeconds = answerSeconds;
  }

  /**
   * The status of a certificate.
   *
   * @param certificate DER, verified
   * @param issuer certificate of who has signed it, DER, verified
   * @param options.signal ends the wait, not the question: others may wait for the answer too
   * @throws TlsError as {@linkcode askResponder} does; the reason of `options.signal`
   */
  async status(
    certificate: Uint8Array,
    issuer: Uint8Array,
    { signal }: { signal?: AbortSignal } = {},
  ): Promise<OcspAnswer> {
    signal?.throwIfAborted();
    const key = keyOf(certificate, issuer);
    let kept = this.#kept.get(key);
    if (kept === undefined || kept.until <= Date.now()) {
      kept = this.#ask(certificate, issuer);
      this.#keep(key, kept);
    }
    return await unlessAborted(kept.answer, signal);
  }

  /**
   * What an answer that is there already says against a certificate: it can be refused within the
   * handshake, which waits for nobody.
   *
   * @param certificate DER
   * @param issuer certificate of who has signed it, DER
   */
  readonly knownRefusal: KnownRefusal = (certificate, issuer) => {
    const { status, until = 0 } = this.#kept.get(keyOf(certificate, issuer)) ?? {};
    return status === "good" || until <= Date.now() ? undefined : status;
  };

  /** Gives up all questions. */
  [Symbol.dispose](): void {
    this.#end.abort();
    this.#kept.clear();
  }

  #ask(certificate: Uint8Array, issuer: Uint8Array): Kept {
    const question = askResponder(certificate, issuer, {
      nonce: true,
      answerSeconds: this.#answerSeconds,
      signal: this.#end.signal,
    });
    const kept: Kept = { answer: question.then(({ answer }) => answer), until: Infinity };
    kept.answer.then((answer) => {
      kept.status = answer.status;
      kept.until = askAgainAt(answer);
    }, () => kept.until = soon());
    return kept;
  }

  #keep(key: string, kept: Kept): void {
    this.#kept.delete(key);
    this.#kept.set(key, kept);
    for (const oldest of this.#kept.keys()) {
      if (this.#kept.size <= mostAnswers) break;
      this.#kept.delete(oldest);
    }
  }
}

function keyOf(certificate: Uint8Array, issuer: Uint8Array): string {
  return createHash("sha256").update(issuer).update(certificate).digest("hex");
}

/** A responder that does not know a certificate may have heard of it shortly after. */
function askAgainAt({ status, nextUpdate = 0 }: OcspAnswer): number {
  if (status === "unknown") return soon();
  return Math.min(Math.max(nextUpdate, soon()), Date.now() + longest);
}

function soon(): number {
  return Date.now() + shortest;
}

async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return await promise;
  const aborted = Promise.withResolvers<never>();
  const abort = () => aborted.reject(signal.reason);
  signal.addEventListener("abort", abort, { once: true });
  try {
    return await Promise.race([promise, aborted.promise]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
