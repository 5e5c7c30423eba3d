import { textOf } from "../../ffi/layout.ts";
import { libcrypto } from "../../ffi/libcrypto.ts";
import { SSL } from "../../ffi/libssl.ts";

/** Of a packed error (ERR_GET_LIB and ERR_GET_REASON of openssl/err.h). */
const REASON_BITS = 23n;
const SYSTEM_FLAG = 0x8000_0000n;

const text = new Uint8Array(256);

/** An entry of OpenSSL's queue of errors, which each thread has one of. */
export interface OpensslFailure {
  /** Number of the library that failed, such as ERR_LIB_SSL. */
  readonly library: number;
  /** One of that library's reasons; 1000 and an alert's number for an alert from the peer. */
  readonly reason: number;
  /** As OpenSSL words it. */
  readonly text: string;
}

/** Forgets what earlier calls of this thread have failed with. */
export function clearErrors(): void {
  libcrypto().ERR_clear_error();
}

/**
 * Takes what has failed since {@linkcode clearErrors}; undefined where nothing has. libssl has the
 * last word on what it was, and whoever failed first the telling ones.
 */
export function takeError(): OpensslFailure | undefined {
  const failures: OpensslFailure[] = [];
  const { ERR_get_error } = libcrypto();
  for (let code = ERR_get_error(); code !== 0n; code = ERR_get_error()) {
    failures.push(failureOf(code));
  }
  const [first] = failures;
  const last = failures.find(({ library }) => library === SSL.ERR_LIB_SSL) ?? first;
  return first && last && { ...last, text: first.text };
}

function failureOf(code: bigint): OpensslFailure {
  libcrypto().ERR_error_string_n(code, text, BigInt(text.length));
  const words = textOf(text);
  const system = (code & SYSTEM_FLAG) !== 0n;
  return {
    library: system ? 2 : Number(code >> REASON_BITS & 0xffn),
    reason: Number(code & (1n << REASON_BITS) - 1n),
    text: words.split(":").slice(4).join(":") || words,
  };
}

/** What has failed since {@linkcode clearErrors} in words, to end a sentence; forgets the others. */
export function errorReason(): string {
  return takeError()?.text ?? "OpenSSL gives no reason";
}
