import { RefusedError } from "../errors.ts";
import type { MemoryRegion } from "../rdma/memory_region.ts";

/** Counts what services have registered for a session, up to what the policy allows its peer. */
export class RegisteredBytes {
  #now = 0;

  /** @param most bytes at once, or Infinity */
  constructor(private readonly most: number) {}

  /**
   * @param bytes that `register` will register; they count until the region is disposed
   * @throws RefusedError when they are too many
   */
  count(bytes: number, register: () => MemoryRegion): MemoryRegion {
    if (this.#now + bytes > this.most) {
      throw new RefusedError(
        "registered_memory",
        `the server's policy lets this client have ${this.most} bytes of registered memory`,
        "ask who runs the server for more",
      );
    }
    const region = register();
    this.#now += bytes;
    return new CountedRegion(region, () => this.#now -= bytes);
  }
}

class CountedRegion implements MemoryRegion {
  #counted = true;

  constructor(private readonly region: MemoryRegion, private readonly release: () => void) {}

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
    if (this.#counted) this.release();
    this.#counted = false;
  }
}
