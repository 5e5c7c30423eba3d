import { createHash, type Hash } from "node:crypto";

/** Places that can be gone back to: more than the chunks that are under way at once. */
const PLACES = 32;

/** SHA-256 of a file's beginning. It can go back to where it was a few updates before, or to nothing. */
export class FileHash {
  #hash = createHash("sha256");
  #length = 0;
  /** By length, in their order. */
  readonly #places = new Map<number, Hash>();

  /** Bytes up to now. */
  get length(): number {
    return this.#length;
  }

  update(bytes: Uint8Array): void {
    this.#hash.update(bytes);
    this.#length += bytes.length;
    this.#places.set(this.#length, this.#hash.copy());
    if (this.#places.size > PLACES) this.#places.delete(this.#places.keys().next().value!);
  }

  /** Goes back to where it had so many bytes; false if that is no place that is kept. */
  rewind(length: number): boolean {
    const hash = length === 0 ? createHash("sha256") : this.#places.get(length)?.copy();
    if (!hash) return false;
    this.#hash = hash;
    this.#length = length;
    for (const place of this.#places.keys()) if (place > length) this.#places.delete(place);
    return true;
  }

  /** 64 hexadecimal digits; it may go on afterwards. */
  digest(): string {
    return this.#hash.copy().digest("hex");
  }
}
