import type { Memory } from "../../../ffi/memory.ts";
import { libibverbs } from "../../../ffi/libibverbs.ts";
import type { Access } from "../memory_region.ts";
import type { ProtectionDomain } from "../protection_domain.ts";
import type { QueuePairOptions } from "../queue_pair.ts";
import { VerbsMemoryRegion } from "./memory_region.ts";
import { VerbsMemoryWindow } from "./memory_window.ts";
import { VerbsObject } from "./object.ts";
import { VerbsQueuePair } from "./queue_pair.ts";

export class VerbsProtectionDomain extends VerbsObject implements ProtectionDomain {
  readonly #context: Deno.PointerObject;
  readonly allocateMemoryWindow: (() => VerbsMemoryWindow) | undefined;

  /** @param windows whether the device has memory windows of type 2 */
  constructor(context: Deno.PointerObject, windows: boolean) {
    super(
      "ibv_alloc_pd",
      libibverbs().ibv_alloc_pd(context),
      "ibv_dealloc_pd",
      libibverbs().ibv_dealloc_pd,
    );
    this.#context = context;
    this.allocateMemoryWindow = windows
      ? () => new VerbsMemoryWindow(context, this.pointer)
      : undefined;
  }

  registerMemory(
    memory: Memory,
    access: readonly Access[],
    offset = 0,
    length = memory.length - offset,
  ): VerbsMemoryRegion {
    return new VerbsMemoryRegion(this.pointer, memory, access, offset, length);
  }

  registerMemoryAside(
    memory: Memory,
    access: readonly Access[],
    offset: number,
    length: number,
  ): Promise<VerbsMemoryRegion> {
    return VerbsMemoryRegion.aside(this.pointer, memory, access, offset, length);
  }

  createQueuePair(options: QueuePairOptions): VerbsQueuePair {
    return new VerbsQueuePair(this.#context, this.pointer, options);
  }
}
