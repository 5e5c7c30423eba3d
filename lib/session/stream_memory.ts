import type { Memory } from "../../ffi/memory.ts";
import { ProtocolError, VerbsealError } from "../errors.ts";
import type { Access, MemoryRegion } from "../rdma/memory_region.ts";

/** Memory that one side has registered. Addresses are offsets in the memory: they tell nothing else. */
interface Registration {
  readonly memory: Memory;
  readonly access: readonly Access[];
  readonly offset: number;
  readonly length: number;
}

/**
 * What a device checks of the memory that work requests name, for transfers over a data connection.
 * Registrations are looked up for each piece that is copied: one that was disposed is out of reach
 * at once.
 */
export class StreamMemory {
  readonly #registrations = new Map<number, Registration>();

  /** Registers a range of memory, until the region is disposed. */
  registerMemory(
    memory: Memory,
    access: readonly Access[],
    offset = 0,
    length = memory.length - offset,
  ): MemoryRegion {
    if (offset < 0 || length < 1 || offset + length > memory.length) {
      throw new RangeError(`bytes ${offset} to ${offset + length} of ${memory.length}`);
    }
    const key = this.#newKey();
    this.#registrations.set(key, { memory, access, offset, length });
    return {
      address: offset,
      length,
      lkey: key,
      rkey: key,
      [Symbol.dispose]: () => void this.#registrations.delete(key),
    };
  }

  /**
   * Bytes that the peer names.
   *
   * @param access that it makes of them
   * @throws ProtocolError when they are not open to it, all of them and for that
   */
  opened(key: number, access: Access, address: number, length: number): Uint8Array {
    const found = this.#registrations.get(key);
    const offset = address - (found?.offset ?? 0);
    if (!found?.access.includes(access) || offset < 0 || offset + length > found.length) {
      throw new ProtocolError(
        "remote_access",
        `bytes ${address} to ${address + length} are not open for ${access} by key ${key}`,
      );
    }
    return view(found, offset, length);
  }

  /**
   * Bytes of a region of our own.
   *
   * @throws VerbsealError when it was disposed, or is shorter
   */
  own({ lkey }: MemoryRegion, offset: number, length: number): Uint8Array {
    const found = this.#registrations.get(lkey);
    if (!found || offset + length > found.length) {
      throw new VerbsealError(
        "local_access",
        `bytes ${offset} to ${offset + length} of registration ${lkey} are not registered`,
      );
    }
    return view(found, offset, length);
  }

  #newKey(): number {
    for (;;) {
      const [key] = crypto.getRandomValues(new Uint32Array(1));
      if (key && !this.#registrations.has(key)) return key;
    }
  }
}

function view({ memory, offset: base }: Registration, offset: number, length: number): Uint8Array {
  return memory.bytes.subarray(base + offset, base + offset + length);
}
