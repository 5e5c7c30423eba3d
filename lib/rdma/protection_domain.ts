import type { Memory } from "../../ffi/memory.ts";
import type { Access, MemoryRegion } from "./memory_region.ts";
import type { MemoryWindow } from "./memory_window.ts";
import type { QueuePair, QueuePairOptions } from "./queue_pair.ts";

/** What keeps one session's memory and queue pair apart from another's (IBTA volume 1, section 10.2.3). */
export interface ProtectionDomain extends Disposable {
  /**
   * Pins and registers a range of memory.
   *
   * @param memory must outlive the region
   * @param access what the device may do with it, besides reading it locally
   * @param offset first byte, from the start of `memory`
   * @param length bytes; the bounds are exact
   * @throws VerbsError for example ENOMEM, when the locked-memory limit is reached
   */
  registerMemory(
    memory: Memory,
    access: readonly Access[],
    offset?: number,
    length?: number,
  ): MemoryRegion;
  /**
   * Registers as {@linkcode registerMemory} does, on another thread, where that takes long enough to
   * be worth it.
   */
  registerMemoryAside?(
    memory: Memory,
    access: readonly Access[],
    offset: number,
    length: number,
  ): Promise<MemoryRegion>;
  /**
   * Disposes a region of this domain on another thread, in the same case: all access to it has ended
   * when it resolves.
   */
  deregisterMemoryAside?(region: MemoryRegion): Promise<void>;
  /** Resolves when no other thread registers or deregisters any more; only then dispose the domain. */
  settled?(): Promise<void>;
  /**
   * Allocates a memory window of type 2; undefined where the device has none.
   *
   * @throws VerbsError for example ENOMEM, when the device has no more
   */
  readonly allocateMemoryWindow?: (() => MemoryWindow) | undefined;
  /** Creates a reliable connected queue pair in state RESET. */
  createQueuePair(options: QueuePairOptions): QueuePair;
}
