import type { Memory } from "../../ffi/memory.ts";
import type { ServiceAccess } from "../session/service.ts";
import { createSha256, type Sha256 } from "./sha256.ts";

/** Places that can be gone back to: more than the chunks that are under way at once. */
const PLACES = 32;

/**
 * SHA-256 of a file's beginning, made by other threads while this one seals and sends where there are
 * processors for them. It can go back to where it was a few updates before, or to nothing.
 */
export class FileHash {
  /** Of the session whose file it is: each update waits for its turn, and counts for it. */
  turns: ServiceAccess["turns"];
  #hash: Sha256;
  #length = 0;
  /** By length, in their order. */
  readonly #places = new Map<number, Sha256>();
  /** Resolves when all that was given is in. */
  #updated: Promise<void> = Promise.resolve();

  /** @param create the hash of nothing */
  constructor(private readonly create: () => Sha256 = createSha256) {
    this.#hash = create();
  }

  /** Bytes up to now. */
  get length(): number {
    return this.#length;
  }

  /**
   * Resolves when these bytes are in, after those of all calls before. They may not change until then,
   * nor may the hash be asked for anything.
   */
  update(memory: Memory, at: number, length: number): Promise<void> {
    return this.#updated = this.#updated.then(() => this.#update(memory, at, length));
  }

  /** Goes back to where it had so many bytes; false if that is no place that is kept. */
  rewind(length: number): boolean {
    const hash = length === 0 ? this.create() : this.#places.get(length)?.copy();
    if (!hash) return false;
    this.#hash = hash;
    this.#length = length;
    for (const place of this.#places.keys()) if (place > length) this.#places.delete(place);
    return true;
  }

  /** 64 hexadecimal digits; it may go on afterwards. */
  digest(): string {
    return this.#hash.digest();
  }

  async #update(memory: Memory, at: number, length: number): Promise<void> {
    await this.turns?.turn();
    const started = performance.now();
    const updated = this.#hash.update(memory, at, length);
    this.turns?.worked(performance.now() - started);
    await updated;
    this.#length += length;
    this.#places.set(this.#length, this.#hash.copy());
    if (this.#places.size > PLACES) this.#places.delete(this.#places.keys().next().value!);
  }
}
