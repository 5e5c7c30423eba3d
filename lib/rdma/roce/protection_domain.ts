import type { Memory } from "../../../ffi/memory.ts";
import { RdmaError } from "../../errors.ts";
import { DisposedError } from "../disposed_error.ts";
import type { Access } from "../memory_region.ts";
import type { ProtectionDomain } from "../protection_domain.ts";
import type { QueuePairOptions } from "../queue_pair.ts";
import type { RoceMemoryRegion } from "./memory_region.ts";
import type { RocePort } from "./port.ts";
import { RoceQueuePair } from "./queue_pair.ts";

/** A protection domain of the embedded provider: regions and queue pairs refer to it, and only to each other through it. */
export class RoceProtectionDomain implements ProtectionDomain {
  #queuePairs = 0;
  #disposed = false;

  constructor(private readonly port: RocePort) {}

  registerMemory(
    memory: Memory,
    access: readonly Access[],
    offset = 0,
    length = memory.length - offset,
  ): RoceMemoryRegion {
    this.#assertOpen();
    return this.port.regions.register(this, memory, access, offset, length);
  }

  createQueuePair(options: QueuePairOptions): RoceQueuePair {
    this.#assertOpen();
    const queuePair = new RoceQueuePair(this.port, this, options, () => this.#queuePairs--);
    this.#queuePairs += 1;
    return queuePair;
  }

  /** @throws RdmaError while it has queue pairs or regions, as ibv_dealloc_pd(3) refuses it */
  [Symbol.dispose](): void {
    const regions = this.port.regions.countOf(this);
    if (this.#queuePairs > 0 || regions > 0) {
      throw new RdmaError(
        "protection_domain_in_use",
        `the protection domain has ${this.#queuePairs} queue pairs and ${regions} regions`,
      );
    }
    this.#disposed = true;
  }

  #assertOpen(): void {
    if (this.#disposed) throw new DisposedError(this.constructor.name);
  }
}
