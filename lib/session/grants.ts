import type { Memory } from "../../ffi/memory.ts";
import { VerbsealError } from "../errors.ts";
import type { Access, MemoryRegion } from "../rdma/memory_region.ts";
import type { MemoryWindow } from "../rdma/memory_window.ts";
import type { ProtectionDomain } from "../rdma/protection_domain.ts";
import type { GrantDirection, LentBuffer } from "./service.ts";
import type { Transfers } from "./transfers.ts";

/** Bytes of memory that are lent. */
export interface LentRange {
  readonly memory: Memory;
  /** Of the first byte, from the start of `memory`. */
  readonly offset: number;
  readonly length: number;
}

/** What registers memory: a protection domain, or what stands for one on a data connection. */
export type Registrar = Pick<
  ProtectionDomain,
  "registerMemory" | "registerMemoryAside" | "deregisterMemoryAside"
>;

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
function checkGrantable(granted: boolean, length: number, most: number): void {
  if (granted) throw new VerbsealError("grant", "the buffer is open to the peer already");
  if (length >= 1 && length <= most) return;
  throw new RangeError(`a grant of ${length} bytes of a buffer of ${most}`);
}

/**
 * A lent buffer that is registered for each grant anew, so that each has a key of its own and exact
 * bounds. No registrations are kept in a pool: one that is made ahead of its grant is open to whoever
 * guesses its key while the buffer is being filled, and one that outlasts its grant is open to the
 * peer that had it. What is pooled are buffers: a transfer has several, and other threads register
 * and deregister one while the others are filled, moved and used. Nothing uses a buffer, and no
 * protection domain ends, before its deregistration has.
 */
export class RegisteredBuffer implements LentBuffer {
  #region: MemoryRegion | undefined;
  /** The present grant, or the one that is being made. */
  #granting: Promise<number> | undefined;
  #withdrawing: Promise<void> | undefined;
  #disposed = false;

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

  async grant(direction: GrantDirection, length = this.range.length): Promise<number> {
    checkGrantable(this.#granting !== undefined, length, this.range.length);
    const granting = this.#granting = this.#open(rights[direction], length);
    try {
      return await granting;
    } catch (error) {
      this.#granting = undefined;
      throw error;
    }
  }

  async withdraw(): Promise<void> {
    const granting = this.#granting;
    if (granting) await (this.#withdrawing ??= this.#end(granting));
  }

  /** What is being withdrawn ends with that. */
  [Symbol.dispose](): void {
    this.#disposed = true;
    this.#taken()?.[Symbol.dispose]();
    this.counted[Symbol.dispose]();
  }

  async #open(access: readonly Access[], length: number): Promise<number> {
    const { registrar, range: { memory, offset } } = this;
    const region = await registrar.registerMemoryAside?.(memory, access, offset, length) ??
      registrar.registerMemory(memory, access, offset, length);
    if (this.#disposed) {
      region[Symbol.dispose]();
      throw new VerbsealError("grant", "the buffer is not lent any more");
    }
    this.#region = region;
    return region.rkey;
  }

  /** Until it has ended the buffer counts as granted. */
  async #end(granting: Promise<number>): Promise<void> {
    try {
      await granting.catch(() => {});
      const region = this.#taken();
      if (region) {
        await (this.registrar.deregisterMemoryAside?.(region) ?? region[Symbol.dispose]());
      }
    } finally {
      if (this.#granting === granting) this.#granting = undefined;
      this.#withdrawing = undefined;
    }
  }

  /** The region, for who disposes it. */
  #taken(): MemoryRegion | undefined {
    const region = this.#region;
    this.#region = undefined;
    return region;
  }
}

/** What the peer does through a window for a direction. */
const windowRights: Readonly<Record<GrantDirection, Access>> = {
  read: "REMOTE_READ",
  write: "REMOTE_WRITE",
};

/**
 * A lent buffer whose memory stays registered, without any right of the peer's: a memory window gives
 * and takes them by work requests, which is faster than to register anew. The region is exactly what is
 * granted, as rdma_rxe lets the peer through a window to all of the region beneath.
 */
export class WindowedBuffer implements LentBuffer {
  #window: MemoryWindow | undefined;
  #region: MemoryRegion | undefined;
  #granted = false;

  /**
   * @param allocateWindow of the protection domain; the queue pair is there already, as what was made
   * last ends first when a process is killed
   * @param counted ends with the buffer
   */
  constructor(
    private readonly protectionDomain: ProtectionDomain,
    private readonly allocateWindow: () => MemoryWindow,
    private readonly transfers: Transfers,
    private readonly range: LentRange,
    private readonly counted: Disposable,
  ) {}

  get address(): number {
    return this.range.memory.address + this.range.offset;
  }

  async grant(direction: GrantDirection, length = this.range.length): Promise<number> {
    checkGrantable(this.#granted, length, this.range.length);
    const window = this.#window ??= this.allocateWindow();
    const region = this.#registered(length);
    this.#granted = true;
    await this.transfers.run((requests, slot, wrId) =>
      window.prepareBind(requests, slot, wrId, region, windowRights[direction])
    );
    return window.rkey;
  }

  async withdraw(): Promise<void> {
    if (!this.#granted) return;
    const window = this.#window!;
    await this.transfers.run((requests, slot, wrId) =>
      window.prepareInvalidate(requests, slot, wrId)
    );
    this.#granted = false;
  }

  /** Ends a grant too, also where the queue pair has failed and takes no work requests. */
  [Symbol.dispose](): void {
    this.#window?.[Symbol.dispose]();
    this.#region?.[Symbol.dispose]();
    this.counted[Symbol.dispose]();
  }

  #registered(length: number): MemoryRegion {
    if (this.#region?.length === length) return this.#region;
    this.#region?.[Symbol.dispose]();
    this.#region = undefined;
    const { memory, offset } = this.range;
    const access: readonly Access[] = ["LOCAL_WRITE", "MW_BIND"];
    return this.#region = this.protectionDomain.registerMemory(memory, access, offset, length);
  }
}
