import { V } from "../../../ffi/libibverbs.ts";
import type { Memory } from "../../../ffi/memory.ts";
import { RdmaError } from "../../errors.ts";
import { type Access, accessFlags, type MemoryRegion } from "../memory_region.ts";

/** Keys are drawn again this often before a port is said to be full. */
const MAX_DRAWS = 1000;

/**
 * A value that is not yet among `taken`, uniform over `bits` bits and from a cryptographic generator:
 * keys and queue pair numbers that nobody can guess.
 *
 * @throws RdmaError when nearly all are taken
 */
export function drawUnused(
  bits: number,
  taken: { has(value: number): boolean },
  smallest = 0,
): number {
  const word = new Uint32Array(1);
  for (let draw = 0; draw < MAX_DRAWS; draw++) {
    const value = crypto.getRandomValues(word)[0]! >>> (32 - bits);
    if (value >= smallest && !taken.has(value)) return value;
  }
  throw new RdmaError("port_full", "the embedded port has no number left", "end some sessions");
}

/** Registered memory of the embedded provider: exact bounds, and a key that is drawn at random. */
export class RoceMemoryRegion implements MemoryRegion {
  readonly address: number;
  readonly lkey: number;
  readonly rkey: number;
  /** Exactly the range that was registered. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  #alive = true;

  constructor(
    private readonly table: RegionTable,
    /** Whose queue pairs may use it. */
    readonly protectionDomain: object,
    memory: Memory,
    readonly access: number,
    offset: number,
    readonly length: number,
    key: number,
  ) {
    this.address = memory.address + offset;
    this.bytes = memory.bytes.subarray(offset, offset + length);
    this.lkey = this.rkey = key;
  }

  /** Neither deregistered, nor is its memory gone. */
  get alive(): boolean {
    return this.#alive && this.bytes.length === this.length;
  }

  /** Whether `length` bytes from `address` lie within. */
  contains(address: number, length: number): boolean {
    return address >= this.address && address + length <= this.address + this.length;
  }

  [Symbol.dispose](): void {
    if (!this.#alive) return;
    this.#alive = false;
    this.table.remove(this);
  }
}

/** All regions of a port, by key. */
export class RegionTable {
  readonly #regions = new Map<number, RoceMemoryRegion>();

  /** @throws RdmaError when remote rights are asked for without LOCAL_WRITE, as ibv_reg_mr(3) refuses it */
  register(
    protectionDomain: object,
    memory: Memory,
    access: readonly Access[],
    offset: number,
    length: number,
  ): RoceMemoryRegion {
    if (offset < 0 || length <= 0 || offset + length > memory.length) {
      throw new RangeError(`bytes ${offset} to ${offset + length} of ${memory.length}`);
    }
    const flags = accessFlags(access);
    const changing = V.IBV_ACCESS_REMOTE_WRITE | V.IBV_ACCESS_REMOTE_ATOMIC;
    if ((flags & changing) !== 0 && (flags & V.IBV_ACCESS_LOCAL_WRITE) === 0) {
      throw new RdmaError(
        "access_flags",
        "REMOTE_WRITE and REMOTE_ATOMIC need LOCAL_WRITE",
        "register the memory with LOCAL_WRITE too",
      );
    }
    const key = drawUnused(32, this.#regions, 1);
    const region = new RoceMemoryRegion(
      this,
      protectionDomain,
      memory,
      flags,
      offset,
      length,
      key,
    );
    this.#regions.set(key, region);
    return region;
  }

  /**
   * The region of a key, if it may be used so (IBTA volume 1, section 10.6.3): it belongs to the
   * protection domain, grants all of `access`, and holds the whole range.
   *
   * @param access flags of IBV_ACCESS; 0 for reading locally
   */
  find(
    key: number,
    protectionDomain: object,
    access: number,
    address: number,
    length: number,
  ): RoceMemoryRegion | undefined {
    const region = this.#regions.get(key);
    return region && region.protectionDomain === protectionDomain &&
        (region.access & access) === access && region.contains(address, length) && region.alive
      ? region
      : undefined;
  }

  /** Number of regions of a protection domain. */
  countOf(protectionDomain: object): number {
    let count = 0;
    for (const region of this.#regions.values()) {
      if (region.protectionDomain === protectionDomain) count += 1;
    }
    return count;
  }

  remove(region: RoceMemoryRegion): void {
    this.#regions.delete(region.rkey);
  }
}
