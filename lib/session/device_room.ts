import type { DeviceLimits } from "../rdma/device.ts";

/**
 * Memory regions of a session at most: two of its messages, one of a file transfer, one that is lent,
 * and as many that wait to be used.
 */
const REGIONS = 8;

/** Sessions that a device has room for: each has a protection domain, a queue pair and a completion queue. */
export function sessionRoom(limits: DeviceLimits): number {
  const { maxQueuePairs, maxProtectionDomains, maxCompletionQueues, maxMemoryRegions } = limits;
  return Math.min(
    maxQueuePairs,
    maxProtectionDomains,
    maxCompletionQueues,
    Math.floor(maxMemoryRegions / REGIONS),
  );
}
