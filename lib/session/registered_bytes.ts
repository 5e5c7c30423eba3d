import { LimitError } from "../errors.ts";
import type { MemoryRegion } from "../rdma/memory_region.ts";

/** Counts what services have registered for a session, up to its share. */
export class RegisteredBytes {
  #now = 0;

  /** @param most bytes at once, or Infinity */
  constructor(private readonly most: number) {}

  /**
   * @param bytes that `register` will register; they count until the region is disposed
   * @throws LimitError when they are too many
   */
  count(bytes: number, register: () => MemoryRegion): MemoryRegion {
    const counted = this.reserve(bytes);
    try {
      return new CountedRegion(register(), counted);
    } catch (error) {
      counted[Symbol.dispose]();
      throw error;
    }
  }

  /**
   * Counts bytes until what it returns is disposed.
   *
   * @throws as {@linkcode count}
   */
  reserve(bytes: number): Disposable {
    if (this.#now + bytes > this.most) {
      throw new LimitError(
        "registered_memory",
        `the server lets this client have ${this.most} bytes of registered memory`,
        "ask who runs the server for more",
      );
    }
    this.#now += bytes;
    let counted = bytes;
    return {
      [Symbol.dispose]: () => {
        this.#now -= counted;
        counted = 0;
      },
    };
  }
}

class CountedRegion implements MemoryRegion {
  constructor(private readonly region: MemoryRegion, private readonly counted: Disposable) {}

  get address(): number {
    return this.region.address;
  }

  get length(): number {
    return this.region.length;
  }

  get lkey(): number {
    return this.region.lkey;
  }

  get rkey(): number {
    return this.region.rkey;
  }

  [Symbol.dispose](): void {
    this.region[Symbol.dispose]();
    this.counted[Symbol.dispose]();
  }
}
