import { EVP, libcryptoEvp } from "../../ffi/libcrypto_evp.ts";
import { addressOf, pointerOf } from "../../ffi/layout.ts";
import type { Memory } from "../../ffi/memory.ts";
import type { SealCipher } from "../control/messages.ts";
import {
  ASSOCIATED_BYTES,
  KEY_BYTES,
  NONCE_BYTES,
  type RecordCipher,
  type SealDirection,
  TAG_BYTES,
} from "./record_cipher.ts";

/** EVP_CipherInit_ex(): neither sealing nor opening is chosen anew. */
const SAME_DIRECTION = -1;

/**
 * libcrypto's AEAD on memory outside of JavaScript's heap. The context keeps the key; a record
 * sets no more than its nonce and allocates nothing.
 *
 * Addresses are integers of 64 bits, and `base + BigInt(offset)` within BigInt.asUintN() as an
 * argument becomes machine arithmetic: 6 ns a call, where a number would cost 100.
 */
export class EvpRecordCipher implements RecordCipher {
  readonly nonce = new DataView(new ArrayBuffer(NONCE_BYTES));
  readonly associatedData = new DataView(new ArrayBuffer(ASSOCIATED_BYTES));
  readonly #noncePointer = pointerOf(this.nonce);
  readonly #associatedAddress = addressOf(pointerOf(this.associatedData));
  /** libcrypto wants to say how many bytes it wrote, which are always all. */
  readonly #written = new DataView(new ArrayBuffer(4));
  readonly #writtenPointer = pointerOf(this.#written);
  readonly #library = libcryptoEvp();
  #context: Deno.PointerValue;

  /** @throws LibraryError where there is no libcrypto */
  constructor(cipher: SealCipher, direction: SealDirection) {
    const library = this.#library;
    const algorithm = cipher === "aes-256-gcm"
      ? library.EVP_aes_256_gcm()
      : library.EVP_chacha20_poly1305();
    this.#context = library.EVP_CIPHER_CTX_new();
    const encrypt = direction === "seal" ? 1 : 0;
    try {
      check(library.EVP_CipherInit_ex(this.#context, algorithm, null, null, null, encrypt));
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  setKey(key: Uint8Array<ArrayBuffer>): void {
    // The bytes of a short array may stand in JavaScript's heap, which moves.
    const fixed = new Uint8Array(new ArrayBuffer(KEY_BYTES));
    fixed.set(key);
    this.#initialize(pointerOf(fixed), null);
    fixed.fill(0);
  }

  seal(source: Memory, at: number, length: number, target: Memory, targetAt: number): void {
    this.#begin();
    this.#update(source, at, length, target, targetAt);
    if (!this.#final(target, targetAt + length)) throw failed();
    this.#tag(EVP.EVP_CTRL_AEAD_GET_TAG, target, targetAt + length);
  }

  open(source: Memory, at: number, length: number, target: Memory, targetAt: number): boolean {
    this.#begin();
    this.#update(source, at, length, target, targetAt);
    this.#tag(EVP.EVP_CTRL_AEAD_SET_TAG, source, at + length);
    if (this.#final(target, targetAt + length)) return true;
    // What was written is what the forger wants us to have.
    target.bytes.fill(0, targetAt, targetAt + length);
    return false;
  }

  [Symbol.dispose](): void {
    // Wipes the key schedule as well.
    this.#library.EVP_CIPHER_CTX_free(this.#context);
    this.#context = null;
  }

  /** The nonce, then what is authenticated only: the output is NULL. */
  #begin(): void {
    this.#initialize(null, this.#noncePointer);
    check(
      this.#library.EVP_CipherUpdate(
        this.#context,
        0n,
        this.#writtenPointer,
        this.#associatedAddress,
        ASSOCIATED_BYTES,
      ),
    );
  }

  #initialize(key: Deno.PointerValue, nonce: Deno.PointerValue): void {
    const context = this.#context;
    check(this.#library.EVP_CipherInit_ex(context, null, null, key, nonce, SAME_DIRECTION));
  }

  #update(source: Memory, at: number, length: number, target: Memory, targetAt: number): void {
    check(
      this.#library.EVP_CipherUpdate(
        this.#context,
        BigInt.asUintN(64, target.base + BigInt(targetAt)),
        this.#writtenPointer,
        BigInt.asUintN(64, source.base + BigInt(at)),
        length,
      ),
    );
  }

  /** Writes nothing; says whether the tag is right, when it opens. */
  #final(target: Memory, end: number): boolean {
    const address = BigInt.asUintN(64, target.base + BigInt(end));
    return this.#library.EVP_CipherFinal_ex(this.#context, address, this.#writtenPointer) === 1;
  }

  #tag(control: number, memory: Memory, at: number): void {
    const address = BigInt.asUintN(64, memory.base + BigInt(at));
    check(this.#library.EVP_CIPHER_CTX_ctrl(this.#context, control, TAG_BYTES, address));
  }
}

/** Whatever EVP returns but 1 is a fault of ours, as no argument comes from outside; 0 is the usual failure. */
function check(result: number): void {
  if (result !== 1) throw failed();
}

function failed(): Error {
  return new Error("libcrypto could not seal or open a record");
}
