import type { Memory } from "../../ffi/memory.ts";

/** What a cipher does under its key: one direction only. */
export type SealDirection = "seal" | "open";

/** Both ciphers' keys, nonces and tags. */
export const KEY_BYTES = 32;
export const NONCE_BYTES = 12;
export const TAG_BYTES = 16;

/** Bytes that are authenticated beside each record; see seal.ts for what stands where. */
export const ASSOCIATED_BYTES = 44;

/** One AEAD in one direction. Dispose it to wipe what it knows of the key. */
export interface RecordCipher extends Disposable {
  /** Taken for the next record as they stand then. */
  readonly nonce: DataView;
  readonly associatedData: DataView;
  setKey(key: Uint8Array<ArrayBuffer>): void;
  /** Writes `length` bytes of ciphertext, and the tag behind them. The caller has checked all bounds. */
  seal(source: Memory, at: number, length: number, target: Memory, targetAt: number): void;
  /**
   * Opens ciphertext that its tag follows.
   *
   * @returns false when the tag is another; the target then holds zeros
   */
  open(source: Memory, at: number, length: number, target: Memory, targetAt: number): boolean;
}
