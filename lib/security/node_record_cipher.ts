import { createCipheriv, createDecipheriv } from "node:crypto";
import type { Memory } from "../../ffi/memory.ts";
import type { SealCipher } from "../control/messages.ts";
import {
  ASSOCIATED_BYTES,
  KEY_BYTES,
  NONCE_BYTES,
  type RecordCipher,
  TAG_BYTES,
} from "./record_cipher.ts";

const options = { authTagLength: TAG_BYTES };

/** Deno's own AEAD, where libcrypto is missing: the same bytes, slower. */
export class NodeRecordCipher implements RecordCipher {
  readonly nonce = new DataView(new ArrayBuffer(NONCE_BYTES));
  readonly associatedData = new DataView(new ArrayBuffer(ASSOCIATED_BYTES));
  readonly #nonceBytes = new Uint8Array(this.nonce.buffer);
  readonly #associatedBytes = new Uint8Array(this.associatedData.buffer);
  readonly #key = new Uint8Array(KEY_BYTES);
  /** node:crypto has several types for what is one here. */
  readonly #name: "chacha20-poly1305";

  constructor(cipher: SealCipher) {
    this.#name = cipher as "chacha20-poly1305";
  }

  setKey(key: Uint8Array<ArrayBuffer>): void {
    this.#key.set(key);
  }

  seal(source: Memory, at: number, length: number, target: Memory, targetAt: number): void {
    const cipher = createCipheriv(this.#name, this.#key, this.#nonceBytes, options);
    cipher.setAAD(this.#associatedBytes, { plaintextLength: length });
    target.bytes.set(cipher.update(source.bytes.subarray(at, at + length)), targetAt);
    cipher.final();
    target.bytes.set(cipher.getAuthTag(), targetAt + length);
  }

  open(source: Memory, at: number, length: number, target: Memory, targetAt: number): boolean {
    const decipher = createDecipheriv(this.#name, this.#key, this.#nonceBytes, options);
    decipher.setAAD(this.#associatedBytes, { plaintextLength: length });
    decipher.setAuthTag(source.bytes.subarray(at + length, at + length + TAG_BYTES));
    const opened = decipher.update(source.bytes.subarray(at, at + length));
    try {
      decipher.final();
    } catch {
      opened.fill(0);
      target.bytes.fill(0, targetAt, targetAt + length);
      return false;
    }
    target.bytes.set(opened, targetAt);
    opened.fill(0);
    return true;
  }

  [Symbol.dispose](): void {
    this.#key.fill(0);
  }
}
