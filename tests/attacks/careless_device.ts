/** Devices with a countermeasure of the provider's taken out. */
import type { Memory } from "../../ffi/memory.ts";
import type { CompletionQueue } from "../../lib/rdma/completion_queue.ts";
import type { AsyncEvent, Device } from "../../lib/rdma/device.ts";
import type { Access, MemoryRegion } from "../../lib/rdma/memory_region.ts";
import type { ProtectionDomain } from "../../lib/rdma/protection_domain.ts";
import type { QueuePair, QueuePairOptions } from "../../lib/rdma/queue_pair.ts";

/** A device that does as another one does, and what a test makes of it. */
export class CarelessDevice implements Device {
  constructor(protected readonly device: Device) {}

  get name() {
    return this.device.name;
  }

  get provider() {
    return this.device.provider;
  }

  get udpPort(): number {
    return this.device.udpPort!;
  }

  get firmware() {
    return this.device.firmware;
  }

  get limits() {
    return this.device.limits;
  }

  get guardsMemoryWindows(): boolean {
    return this.device.guardsMemoryWindows ?? false;
  }

  ports() {
    return this.device.ports();
  }

  allocateProtectionDomain(): ProtectionDomain {
    return this.device.allocateProtectionDomain();
  }

  createCompletionQueue(depth: number): CompletionQueue {
    return this.device.createCompletionQueue(depth);
  }

  errorCounters() {
    return this.device.errorCounters();
  }

  onAsyncEvent(listener: (event: AsyncEvent) => void, signal: AbortSignal): void {
    this.device.onAsyncEvent(listener, signal);
  }

  [Symbol.dispose](): void {
    this.device[Symbol.dispose]();
  }
}

/** All sessions share one protection domain, as in what ReDMArk broke. */
export class SharedDomainDevice extends CarelessDevice {
  #domain: ProtectionDomain | undefined;

  override allocateProtectionDomain(): ProtectionDomain {
    const domain = this.#domain ??= super.allocateProtectionDomain();
    return {
      registerMemory: (...range) => domain.registerMemory(...range),
      createQueuePair: (options) => domain.createQueuePair(options),
      [Symbol.dispose]() {},
    };
  }
}

/** Grants are made by memory windows, also where anybody can end them. */
export class WindowedDevice extends CarelessDevice {
  override get guardsMemoryWindows(): boolean {
    return true;
  }
}

/** Regions have the bounds of the memory that they are in, not those that were asked for. */
export class LooseBoundsDevice extends CarelessDevice {
  override allocateProtectionDomain(): ProtectionDomain {
    return new LooseBoundsDomain(super.allocateProtectionDomain());
  }
}

class LooseBoundsDomain implements ProtectionDomain {
  constructor(private readonly domain: ProtectionDomain) {}

  registerMemory(
    memory: Memory,
    access: readonly Access[],
    offset = 0,
    length = memory.length - offset,
  ): MemoryRegion {
    const region = this.domain.registerMemory(memory, access);
    const { lkey, rkey } = region;
    const address = region.address + offset;
    return { address, length, lkey, rkey, [Symbol.dispose]: () => region[Symbol.dispose]() };
  }

  createQueuePair(options: QueuePairOptions): QueuePair {
    return this.domain.createQueuePair(options);
  }

  [Symbol.dispose](): void {
    this.domain[Symbol.dispose]();
  }
}

/** Whatever a peer may reach it may also change atomically. */
export class AtomicDevice extends CarelessDevice {
  override allocateProtectionDomain(): ProtectionDomain {
    return new AtomicDomain(super.allocateProtectionDomain());
  }
}

class AtomicDomain implements ProtectionDomain {
  constructor(private readonly domain: ProtectionDomain) {}

  registerMemory(
    memory: Memory,
    access: readonly Access[],
    offset?: number,
    length?: number,
  ): MemoryRegion {
    const atomic: Access[] = [...new Set([...access, "LOCAL_WRITE", "REMOTE_ATOMIC"] as const)];
    return this.domain.registerMemory(memory, atomic, offset, length);
  }

  createQueuePair(options: QueuePairOptions): QueuePair {
    const queuePair = this.domain.createQueuePair(options);
    const { modify } = queuePair;
    const careless: QueuePair["modify"] = (attributes) => {
      const { access } = attributes;
      const more = access && { access: [...access, "REMOTE_ATOMIC"] as const };
      modify.call(queuePair, { ...attributes, ...more });
    };
    return Object.assign(queuePair, { modify: careless });
  }

  [Symbol.dispose](): void {
    this.domain[Symbol.dispose]();
  }
}

/** Completion queues hold as many completions as the test wants. */
export class ShallowQueuesDevice extends CarelessDevice {
  constructor(device: Device, private readonly depth: number) {
    super(device);
  }

  override createCompletionQueue(): CompletionQueue {
    return super.createCompletionQueue(this.depth);
  }
}
