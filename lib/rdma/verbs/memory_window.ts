import { addressOf, pointerAt } from "../../../ffi/layout.ts";
import { ibvContext, ibvMw, V } from "../../../ffi/libibverbs.ts";
import { type Access, accessFlags, type MemoryRegion } from "../memory_region.ts";
import type { MemoryWindow } from "../memory_window.ts";
import { SendFlag, type SendWorkRequests } from "../work_request.ts";
import { VerbsMemoryRegion } from "./memory_region.ts";
import { VerbsObject } from "./object.ts";

/** Bits of an rkey that its owner chooses with each binding (ibv_inc_rkey(3)); the device chose the others. */
const OWN_BITS = 0xff;

// Inline functions in C, which call through the context.
const allocMw = {
  parameters: [
    "pointer", // struct ibv_pd *pd
    "i32", // enum ibv_mw_type type
  ],
  result: "pointer",
} as const;

const deallocMw = {
  parameters: [
    "pointer", // struct ibv_mw *mw
  ],
  result: "i32",
} as const;

export class VerbsMemoryWindow extends VerbsObject implements MemoryWindow {
  readonly #mw = ibvMw.at(this.pointer);
  #rkey = this.#mw.get("rkey");

  constructor(context: Deno.PointerObject, protectionDomain: Deno.PointerObject) {
    const ops = ibvContext.at(context);
    const allocate = functionAt(ops.get("ops.alloc_mw"), allocMw);
    const deallocate = functionAt(ops.get("ops.dealloc_mw"), deallocMw);
    super(
      "ibv_alloc_mw",
      allocate.call(protectionDomain, V.IBV_MW_TYPE_2),
      "ibv_dealloc_mw",
      (window) => deallocate.call(window),
    );
  }

  get rkey(): number {
    this.assertOpen();
    return this.#rkey;
  }

  prepareBind(
    requests: SendWorkRequests,
    index: number,
    wrId: number,
    region: MemoryRegion,
    access: Access,
  ): void {
    if (!(region instanceof VerbsMemoryRegion)) {
      throw new TypeError("a memory region of another provider");
    }
    // The structure has the present key when a request is posted, and its owner changes it afterwards.
    this.#mw.set("rkey", this.rkey);
    this.#rkey = otherKey(this.rkey);
    requests.prepareBind(index, wrId, SendFlag.SIGNALED, {
      window: Number(addressOf(this.pointer)),
      rkey: this.#rkey,
      region: Number(addressOf(region.pointer)),
      address: region.address,
      length: region.length,
      access: accessFlags([access]),
    });
  }

  prepareInvalidate(requests: SendWorkRequests, index: number, wrId: number): void {
    requests.prepareInvalidate(index, wrId, SendFlag.SIGNALED, this.rkey);
  }
}

function functionAt<const F extends Deno.ForeignFunction>(
  address: bigint,
  definition: F,
): Deno.UnsafeFnPointer<F> {
  return new Deno.UnsafeFnPointer(pointerAt(address) as Deno.PointerObject<F>, definition);
}

/** A key whose own bits are drawn, and are not those before: a device refuses these. */
function otherKey(rkey: number): number {
  const step = 1 + crypto.getRandomValues(new Uint8Array(1))[0]! % OWN_BITS;
  return ((rkey & ~OWN_BITS) | ((rkey + step) & OWN_BITS)) >>> 0;
}
