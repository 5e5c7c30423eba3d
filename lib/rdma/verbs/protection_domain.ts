import type { Memory } from "../../../ffi/memory.ts";
import { libibverbs } from "../../../ffi/libibverbs.ts";
import type { Access, MemoryRegion } from "../memory_region.ts";
import type { ProtectionDomain } from "../protection_domain.ts";
import type { QueuePairOptions } from "../queue_pair.ts";
import { VerbsMemoryRegion } from "./memory_region.ts";
import { VerbsMemoryWindow } from "./memory_window.ts";
import { VerbsObject } from "./object.ts";
import { VerbsQueuePair } from "./queue_pair.ts";

export class VerbsProtectionDomain extends VerbsObject implements ProtectionDomain {
  readonly #context: Deno.PointerObject;
  /** What other threads are at. */
  readonly #aside = new Set<Promise<unknown>>();
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
    return this.#until(VerbsMemoryRegion.aside(this.pointer, memory, access, offset, length));
  }

  deregisterMemoryAside(region: MemoryRegion): Promise<void> {
    if (!(region instanceof VerbsMemoryRegion)) {
      throw new TypeError("a memory region of another provider");
    }
    return this.#until(region.deregisterAside());
  }

  async settled(): Promise<void> {
    await Promise.allSettled(this.#aside);
  }

  createQueuePair(options: QueuePairOptions): VerbsQueuePair {
    return new VerbsQueuePair(this.#context, this.pointer, options);
  }

  #until<T>(work: Promise<T>): Promise<T> {
    this.#aside.add(work);
    work.catch(() => {}).finally(() => this.#aside.delete(work));
    return work;
  }
}
