import type { Access, MemoryRegion } from "./memory_region.ts";
import type { SendWorkRequests } from "./work_request.ts";

/**
 * A memory window of type 2 (IBTA volume 1, section 10.6.7.2): opens a region to the peer of one
 * queue pair, and closes it again, by work requests of that queue pair. Dispose it before the queue
 * pair, as some devices wait for the binding to end, and before the region.
 */
export interface MemoryWindow extends Disposable {
  /** Names the region in the peer's work requests, as bound by the last request that was prepared. */
  readonly rkey: number;
  /**
   * Prepares request `index`, which binds the window to a whole region under another key. Not every
   * device holds bounds that are narrower than the region's.
   *
   * @param region registered with MW_BIND, and LOCAL_WRITE where the peer may WRITE
   * @param access what the peer may do
   */
  prepareBind(
    requests: SendWorkRequests,
    index: number,
    wrId: number,
    region: MemoryRegion,
    access: Access,
  ): void;
  /** Prepares request `index`, which ends the binding: once it has completed nothing reaches the region. */
  prepareInvalidate(requests: SendWorkRequests, index: number, wrId: number): void;
}
