import type { DeviceLimits } from "../rdma/device.ts";

/**
 * Memory regions of a session at most: two of its messages, one of a file transfer, one that is lent,
 * and as many that wait to be used.
 */
const REGIONS = 8;

/**
 * Sessions that a device has room for: each has a protection domain, a queue pair, a completion queue
 * and, on a device that has them, a memory window.
 */
export function sessionRoom(limits: DeviceLimits): number {
  return Math.min(
    limits.maxQueuePairs,
    limits.maxProtectionDomains,
    limits.maxCompletionQueues,
    limits.maxMemoryWindows || Infinity,
    Math.floor(limits.maxMemoryRegions / REGIONS),
  );
}
