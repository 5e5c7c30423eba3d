import type { Memory } from "../../../ffi/memory.ts";
import { ibvMr, libibverbs } from "../../../ffi/libibverbs.ts";
import { type Access, accessFlags, type MemoryRegion } from "../memory_region.ts";
import { pointerAt } from "../../../ffi/layout.ts";
import { checkVerbs } from "./error.ts";
import { VerbsObject } from "./object.ts";

export class VerbsMemoryRegion extends VerbsObject implements MemoryRegion {
  readonly address: number;
  readonly lkey: number;
  readonly rkey: number;

  /** @param registered the region, where the call was made already */
  constructor(
    protectionDomain: Deno.PointerObject,
    /** Keeps the memory reachable as long as the region. */
    readonly memory: Memory,
    access: readonly Access[],
    offset: number,
    readonly length: number,
    registered: Deno.PointerValue = null,
  ) {
    super(
      "ibv_reg_mr",
      registered ??
        libibverbs().ibv_reg_mr(protectionDomain, ...range(memory, access, offset, length)),
      "ibv_dereg_mr",
      libibverbs().ibv_dereg_mr,
    );
    const mr = ibvMr.at(this.pointer);
    this.address = memory.address + offset;
    this.lkey = mr.get("lkey");
    this.rkey = mr.get("rkey");
  }

  /** Registers on another thread. Where that fails, a second call on this one tells why. */
  static async aside(
    protectionDomain: Deno.PointerObject,
    memory: Memory,
    access: readonly Access[],
    offset: number,
    length: number,
  ): Promise<VerbsMemoryRegion> {
    const registered = await libibverbs()
      .ibv_reg_mr_aside(protectionDomain, ...range(memory, access, offset, length));
    return new VerbsMemoryRegion(protectionDomain, memory, access, offset, length, registered);
  }

  /** Deregisters on another thread; it is disposed from now on. */
  async deregisterAside(): Promise<void> {
    const pointer = this.release();
    if (pointer === null) return;
    checkVerbs("ibv_dereg_mr", await libibverbs().ibv_dereg_mr_aside(pointer));
  }
}

/** Arguments of ibv_reg_mr. */
function range(
  memory: Memory,
  access: readonly Access[],
  offset: number,
  length: number,
): [address: Deno.PointerValue, length: bigint, access: number] {
  if (offset < 0 || length <= 0 || offset + length > memory.length) {
    throw new RangeError(`bytes ${offset} to ${offset + length} of ${memory.length}`);
  }
  return [pointerAt(BigInt(memory.address + offset)), BigInt(length), accessFlags(access)];
}
