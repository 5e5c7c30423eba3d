import type { Memory } from "../../ffi/memory.ts";
import { VerbsealError } from "../errors.ts";
import type { Access, MemoryRegion } from "../rdma/memory_region.ts";
import type { GrantDirection, LentBuffer } from "./service.ts";

/** Bytes of memory that are lent. */
export interface LentRange {
  readonly memory: Memory;
  /** Of the first byte, from the start of `memory`. */
  readonly offset: number;
  readonly length: number;
}

/** What registers memory: a protection domain, or what stands for one on a data connection. */
export interface Registrar {
  registerMemory(
    memory: Memory,
    access: readonly Access[],
    offset: number,
    length: number,
  ): MemoryRegion;
}

/** What a region needs for a direction; REMOTE_WRITE needs LOCAL_WRITE (ibv_reg_mr(3)). */
const rights: Readonly<Record<GrantDirection, readonly Access[]>> = {
  read: ["REMOTE_READ"],
  write: ["LOCAL_WRITE", "REMOTE_WRITE"],
};

/**
 * Checks that a buffer may be granted.
 *
 * @param length of the grant, in bytes; `most` are lent
 */
export function checkGrantable(granted: boolean, length: number, most: number): void {
  if (granted) throw new VerbsealError("grant", "the buffer is open to the peer already");
  if (length >= 1 && length <= most) return;
  throw new RangeError(`a grant of ${length} bytes of a buffer of ${most}`);
}

/** A lent buffer that is registered for each grant anew, so that each has a key of its own. */
export class RegisteredBuffer implements LentBuffer {
  #region: MemoryRegion | undefined;

  /**
   * @param address of the first byte, as the peer names it
   * @param counted ends with the buffer
   */
  constructor(
    private readonly registrar: Registrar,
    private readonly range: LentRange,
    readonly address: number,
    private readonly counted: Disposable,
  ) {}

  // deno-lint-ignore require-await -- other ways to grant take a work request
  async grant(direction: GrantDirection, length = this.range.length): Promise<number> {
    const { memory, offset, length: most } = this.range;
    checkGrantable(this.#region !== undefined, length, most);
    this.#region = this.registrar.registerMemory(memory, rights[direction], offset, length);
    return this.#region.rkey;
  }

  // deno-lint-ignore require-await -- as above
  async withdraw(): Promise<void> {
    this.#end();
  }

  [Symbol.dispose](): void {
    this.#end();
    this.counted[Symbol.dispose]();
  }

  #end(): void {
    this.#region?.[Symbol.dispose]();
    this.#region = undefined;
  }
}
