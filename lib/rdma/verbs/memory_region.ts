import type { Memory } from "../../../ffi/memory.ts";
import { ibvMr, libibverbs } from "../../../ffi/libibverbs.ts";
import { type Access, accessFlags, type MemoryRegion } from "../memory_region.ts";
import { pointerAt } from "../../../ffi/layout.ts";
import { VerbsObject } from "./object.ts";

export class VerbsMemoryRegion extends VerbsObject implements MemoryRegion {
  readonly address: number;
  readonly lkey: number;
  readonly rkey: number;

  constructor(
    protectionDomain: Deno.PointerObject,
    /** Keeps the memory reachable as long as the region. */
    readonly memory: Memory,
    access: readonly Access[],
    offset: number,
    readonly length: number,
  ) {
    if (offset < 0 || length <= 0 || offset + length > memory.length) {
      throw new RangeError(`bytes ${offset} to ${offset + length} of ${memory.length}`);
    }
    const address = memory.address + offset;
    super(
      "ibv_reg_mr",
      libibverbs().ibv_reg_mr(
        protectionDomain,
        pointerAt(BigInt(address)),
        BigInt(length),
        accessFlags(access),
      ),
      "ibv_dereg_mr",
      libibverbs().ibv_dereg_mr,
    );
    const mr = ibvMr.at(this.pointer);
    this.address = address;
    this.lkey = mr.get("lkey");
    this.rkey = mr.get("rkey");
  }
}
