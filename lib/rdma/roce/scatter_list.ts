import { RdmaError } from "../../errors.ts";
import type { ReceiveWorkRequests, SendWorkRequests } from "../work_request.ts";
import type { RegionTable, RoceMemoryRegion } from "./memory_region.ts";

/** @throws RdmaError when a work request has more buffers than its queue was made for */
export function requireBuffers(
  requests: SendWorkRequests | ReceiveWorkRequests,
  index: number,
  maximum: number,
): void {
  const count = requests.bufferCount(index);
  if (count <= maximum) return;
  throw new RdmaError(
    "too_many_buffers",
    `a work request has ${count} buffers, its queue was made for ${maximum}`,
    "create the queue pair with a larger maxSendSge or maxReceiveSge",
  );
}

/** The local buffers of a work request, as one sequence of bytes. Allocated once for each place in a queue. */
export class ScatterList {
  /** Bytes of all buffers. */
  length = 0;
  #count = 0;
  // Not typed arrays: each would take a hundred bytes more, and a queue pair has many of these.
  readonly #addresses: number[];
  readonly #lengths: number[];
  readonly #keys: number[];
  readonly #regions: (RoceMemoryRegion | undefined)[];

  constructor(readonly maxBuffers: number) {
    this.#addresses = new Array(maxBuffers).fill(0);
    this.#lengths = new Array(maxBuffers).fill(0);
    this.#keys = new Array(maxBuffers).fill(0);
    this.#regions = Array.from({ length: maxBuffers });
  }

  /** Takes the buffers of request `index`. */
  take(requests: SendWorkRequests | ReceiveWorkRequests, index: number): void {
    this.#count = requests.bufferCount(index);
    this.length = 0;
    for (let buffer = 0; buffer < this.#count; buffer++) {
      this.#addresses[buffer] = requests.bufferAddress(index, buffer);
      this.#lengths[buffer] = requests.bufferLength(index, buffer);
      this.#keys[buffer] = requests.bufferLkey(index, buffer);
      this.length += this.#lengths[buffer]!;
    }
  }

  /** Looks the regions up; false when a buffer is not wholly in a region that may be used so. */
  resolve(regions: RegionTable, protectionDomain: object, access: number): boolean {
    for (let buffer = 0; buffer < this.#count; buffer++) {
      const length = this.#lengths[buffer]!;
      const region = regions.find(
        this.#keys[buffer]!,
        protectionDomain,
        access,
        this.#addresses[buffer]!,
        length,
      );
      if (!region && length > 0) return false;
      this.#regions[buffer] = region;
    }
    return true;
  }

  /** Whether the regions that {@linkcode resolve} found are still there. */
  get isAlive(): boolean {
    for (let buffer = 0; buffer < this.#count; buffer++) {
      if (this.#lengths[buffer]! > 0 && !this.#regions[buffer]!.alive) return false;
    }
    return true;
  }

  /** Copies `length` bytes from `offset` to `target` at `at`. The regions must be alive. */
  gather(offset: number, length: number, target: Uint8Array, at: number): void {
    let skip = offset;
    let rest = length;
    for (let buffer = 0; rest > 0; buffer++) {
      const available = this.#lengths[buffer]! - skip;
      if (available <= 0) {
        skip -= this.#lengths[buffer]!;
        continue;
      }
      const region = this.#regions[buffer]!;
      const bytes = Math.min(available, rest);
      const start = this.#addresses[buffer]! - region.address + skip;
      target.set(region.bytes.subarray(start, start + bytes), at + length - rest);
      rest -= bytes;
      skip = 0;
    }
  }

  /** Copies `length` bytes of `source` from `at` to `offset`. False when a region has gone. */
  scatter(offset: number, source: Uint8Array, at: number, length: number): boolean {
    let skip = offset;
    let rest = length;
    for (let buffer = 0; rest > 0; buffer++) {
      const available = this.#lengths[buffer]! - skip;
      if (available <= 0) {
        skip -= this.#lengths[buffer]!;
        continue;
      }
      const region = this.#regions[buffer]!;
      if (!region.alive) return false;
      const bytes = Math.min(available, rest);
      const from = at + length - rest;
      region.bytes.set(
        source.subarray(from, from + bytes),
        this.#addresses[buffer]! - region.address + skip,
      );
      rest -= bytes;
      skip = 0;
    }
    return true;
  }
}
