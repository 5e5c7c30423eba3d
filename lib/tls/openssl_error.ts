import { textOf } from "../../ffi/layout.ts";
import { libcrypto } from "../../ffi/libcrypto.ts";
import { SSL } from "../../ffi/libssl.ts";

/** Of a packed error (ERR_GET_LIB and ERR_GET_REASON of openssl/err.h). */
const REASON_BITS = 23n;
const SYSTEM_FLAG = 0x8000_0000n;

/** ERR_LIB_SYS. */
const SYSTEM_LIBRARY = 2;

const text = new Uint8Array(256);

/** An entry of OpenSSL's queue of errors, which each thread has one of. */
export class OpensslFailure {
  /**
   * @param code what has the last word
   * @param cause what failed first
   */
  constructor(private readonly code: bigint, private readonly cause: bigint) {}

  /** Number of the library that failed, such as ERR_LIB_SSL. */
  get library(): number {
    return libraryOf(this.code);
  }

  /** One of that library's reasons; 1000 and an alert's number for an alert from the peer. */
  get reason(): number {
    return Number(this.code & (1n << REASON_BITS) - 1n);
  }

  /** As OpenSSL words it. */
  get text(): string {
    libcrypto().ERR_error_string_n(this.cause, text, BigInt(text.length));
    const words = textOf(text);
    return words.split(":").slice(4).join(":") || words;
  }
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
  const { ERR_get_error } = libcrypto();
  const first = ERR_get_error();
  if (first === 0n) return undefined;
  let telling: bigint | undefined;
  for (let code = first; code !== 0n; code = ERR_get_error()) {
    if (libraryOf(code) === SSL.ERR_LIB_SSL) telling ??= code;
  }
  return new OpensslFailure(telling ?? first, first);
}

function libraryOf(code: bigint): number {
  return (code & SYSTEM_FLAG) !== 0n ? SYSTEM_LIBRARY : Number(code >> REASON_BITS & 0xffn);
}

/** What has failed since {@linkcode clearErrors} in words, to end a sentence; forgets the others. */
export function errorReason(): string {
  return takeError()?.text ?? "OpenSSL gives no reason";
}
