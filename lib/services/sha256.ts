import { encodeHex } from "@std/encoding/hex";
import { createHash } from "node:crypto";
import { pointerAt, pointerOf } from "../../ffi/layout.ts";
import { LibraryError } from "../../ffi/library.ts";
import { libcryptoSha256, SHA256_CTX_BYTES } from "../../ffi/libcrypto_sha256.ts";
import type { Memory } from "../../ffi/memory.ts";

const DIGEST_BYTES = 32;

/** SHA-256 (FIPS 180-4) of what was given up to now. It goes on after copies and digests. */
export interface Sha256 {
  /** Resolves when these bytes are in; nothing else may be asked before, nor the bytes change. */
  update(memory: Memory, at: number, length: number): Promise<void>;
  copy(): Sha256;
  /** 64 hexadecimal digits. */
  digest(): string;
}

/**
 * Whether other threads hash. To wake one and be woken by it costs what some hundred KiB do, and it
 * takes a processor, which one or two processors have not beside the threads that seal and send.
 */
const ELSEWHERE = navigator.hardwareConcurrency > 2;

/** By libcrypto, or by Deno's own on this thread where there is none. */
export function createSha256(elsewhere = ELSEWHERE): Sha256 {
  try {
    return new LibcryptoSha256(elsewhere);
  } catch (error) {
    if (!(error instanceof LibraryError)) throw error;
    return new NodeSha256();
  }
}

class LibcryptoSha256 implements Sha256 {
  readonly #library = libcryptoSha256();
  /** Outside of JavaScript's heap, where bytes move while another thread works on them. */
  readonly #state = new Uint8Array(new ArrayBuffer(SHA256_CTX_BYTES));

  /** @throws LibraryError where there is no libcrypto */
  constructor(private readonly elsewhere: boolean, copied?: Uint8Array) {
    if (copied) this.#state.set(copied);
    else this.#library.SHA256_Init(this.#state);
  }

  async update(memory: Memory, at: number, length: number): Promise<void> {
    const bytes = pointerAt(BigInt(memory.address + at));
    if (this.elsewhere) {
      await this.#library.SHA256_UpdateAsync(pointerOf(this.#state), bytes, BigInt(length));
    } else {
      this.#library.SHA256_Update(this.#state, bytes, BigInt(length));
    }
  }

  copy(): LibcryptoSha256 {
    return new LibcryptoSha256(this.elsewhere, this.#state);
  }

  digest(): string {
    const digest = new Uint8Array(DIGEST_BYTES);
    this.#library.SHA256_Final(digest, this.#state.slice());
    return encodeHex(digest);
  }
}

/** The same on the thread that asks. */
export class NodeSha256 implements Sha256 {
  constructor(private readonly hash = createHash("sha256")) {}

  update(memory: Memory, at: number, length: number): Promise<void> {
    this.hash.update(memory.bytes.subarray(at, at + length));
    return Promise.resolve();
  }

  copy(): NodeSha256 {
    return new NodeSha256(this.hash.copy());
  }

  digest(): string {
    return this.hash.copy().digest("hex");
  }
}
