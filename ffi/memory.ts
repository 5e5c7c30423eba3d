import { addressOf } from "./layout.ts";
import { C, errno, libc, SystemError } from "./libc.ts";

/** Bytes of a page. Regions are multiples of it; larger pages of other systems are multiples of it too. */
const pageSize = 4096;

/**
 * Page-aligned, zeroed memory outside of JavaScript's heap, whose address never changes.
 * Disposing it detaches `bytes` first, as a view over unmapped memory would end the process.
 */
export class Memory implements Disposable {
  readonly pointer: Deno.PointerObject;
  /** Address as a number: user space lies below 2^53 on every 64-bit Linux. */
  readonly address: number;
  /** The same as C calls take it: `base + BigInt(offset)` allocates nothing where it is an argument. */
  readonly base: bigint;
  readonly bytes: Uint8Array<ArrayBuffer>;
  #mapped: number;

  /**
   * @param length bytes, at least 1
   * @throws SystemError when the system has no memory left
   */
  constructor(readonly length: number) {
    this.#mapped = Math.ceil(length / pageSize) * pageSize;
    const pointer = libc().mmap(
      null,
      BigInt(this.#mapped),
      C.PROT_READ | C.PROT_WRITE,
      C.MAP_PRIVATE | C.MAP_ANONYMOUS,
      -1,
      0n,
    );
    // MAP_FAILED is (void *) -1.
    if (pointer === null || addressOf(pointer) === 0xffff_ffff_ffff_ffffn) {
      throw new SystemError("mmap", errno());
    }
    this.pointer = pointer;
    this.base = addressOf(pointer);
    this.address = Number(this.base);
    this.bytes = new Uint8Array(
      Deno.UnsafePointerView.getArrayBuffer(pointer, length) as ArrayBuffer,
    );
  }

  [Symbol.dispose](): void {
    if (this.#mapped === 0) return;
    this.#wipe();
    this.bytes.buffer.transfer(0);
    libc().munmap(this.pointer, BigInt(this.#mapped));
    this.#mapped = 0;
  }

  /**
   * Pages that nobody has touched hold nothing, and the system would have to find memory for them
   * only to have it back: whoever asks for many small files would keep it busy with that.
   */
  #wipe(): void {
    const page = libc().getpagesize();
    const there = new Uint8Array(Math.ceil(this.#mapped / page));
    const known = libc().mincore(this.pointer, BigInt(this.#mapped), there) === 0;
    for (let index = 0; index < there.length; index++) {
      const begin = index * page;
      if (!known || there[index]! & 1) this.bytes.fill(0, begin, begin + page);
    }
  }
}
