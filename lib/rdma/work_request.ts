import { addressOf, pointerOf } from "../../ffi/layout.ts";
import { ibvRecvWr, ibvSendWr, ibvSge, V } from "../../ffi/libibverbs.ts";

/** Operations of a reliable connected queue pair (enum ibv_wr_opcode). */
export const Opcode = {
  WRITE: V.IBV_WR_RDMA_WRITE,
  WRITE_WITH_IMMEDIATE: V.IBV_WR_RDMA_WRITE_WITH_IMM,
  SEND: V.IBV_WR_SEND,
  SEND_WITH_IMMEDIATE: V.IBV_WR_SEND_WITH_IMM,
  READ: V.IBV_WR_RDMA_READ,
  COMPARE_AND_SWAP: V.IBV_WR_ATOMIC_CMP_AND_SWP,
  FETCH_AND_ADD: V.IBV_WR_ATOMIC_FETCH_AND_ADD,
} as const;

export type Opcode = typeof Opcode[keyof typeof Opcode];

/** Flags of a send work request (enum ibv_send_flags); combine with `|`. */
export const SendFlag = {
  NONE: 0,
  FENCE: V.IBV_SEND_FENCE,
  SIGNALED: V.IBV_SEND_SIGNALED,
  SOLICITED: V.IBV_SEND_SOLICITED,
  INLINE: V.IBV_SEND_INLINE,
} as const;

const high = 0x1_0000_0000;

/** What send and receive lists share: work requests of one size, each with its scatter/gather entries, in memory that stays. */
class WorkRequestList {
  protected readonly words: Uint32Array<ArrayBuffer>;
  protected readonly view: DataView<ArrayBuffer>;
  readonly #address: number;
  readonly #sgeBase: number;
  // Looked up once: by name they would take most of the time of preparing and posting a request.
  readonly #size: number;
  readonly #wrId: number;
  readonly #next: number;
  readonly #numSge: number;

  constructor(
    readonly capacity: number,
    readonly maxSge: number,
    layout: typeof ibvSendWr | typeof ibvRecvWr,
  ) {
    this.#size = layout.size;
    this.#wrId = layout.offset("wr_id");
    this.#next = layout.offset("next");
    this.#numSge = layout.offset("num_sge");
    this.#sgeBase = capacity * layout.size;
    const memory = new ArrayBuffer(this.#sgeBase + capacity * maxSge * ibvSge.size);
    this.words = new Uint32Array(memory);
    this.view = new DataView(memory);
    this.#address = Number(addressOf(pointerOf(this.view)));
    for (let index = 0; index < capacity; index++) {
      this.setAddress(
        index * layout.size + layout.offset("sg_list"),
        this.#address + this.#sgeBase + index * maxSge * ibvSge.size,
      );
    }
  }

  /**
   * Adds a local buffer to a request that was prepared.
   *
   * @param lkey of the region that holds the buffer; ignored for inline data
   */
  buffer(index: number, address: number, length: number, lkey: number): this {
    const count = (index * this.#size + this.#numSge) >> 2;
    const used = this.words[count]!;
    if (used >= this.maxSge) throw new RangeError(`work request has ${used} buffers already`);
    const sge = this.#sgeBase + (index * this.maxSge + used) * ibvSge.size;
    this.setAddress(sge, address);
    this.words[(sge >> 2) + 2] = length;
    this.words[(sge >> 2) + 3] = lkey;
    this.words[count] = used + 1;
    return this;
  }

  /** Links `count` requests from `first` into one list and returns the list's address, for posting. */
  chain(first: number, count: number): number {
    const last = first + count - 1;
    this.checkIndex(last);
    for (let index = first; index <= last; index++) {
      const next = index === last ? 0 : this.#address + (index + 1) * this.#size;
      this.setAddress(index * this.#size + this.#next, next);
    }
    return this.#address + first * this.#size;
  }

  /** The lower 32 bits of wr_id of a request that was prepared. */
  wrIdOf(index: number): number {
    return this.words[(index * this.#size + this.#wrId) >> 2]!;
  }

  /** Number of buffers of a request. */
  bufferCount(index: number): number {
    return this.words[(index * this.#size + this.#numSge) >> 2]!;
  }

  bufferAddress(index: number, buffer: number): number {
    return this.addressAt(this.#sgeBase + (index * this.maxSge + buffer) * ibvSge.size);
  }

  /** Bytes. */
  bufferLength(index: number, buffer: number): number {
    return this.words[((this.#sgeBase + (index * this.maxSge + buffer) * ibvSge.size) >> 2) + 2]!;
  }

  bufferLkey(index: number, buffer: number): number {
    return this.words[((this.#sgeBase + (index * this.maxSge + buffer) * ibvSge.size) >> 2) + 3]!;
  }

  protected begin(index: number, wrId: number): void {
    this.checkIndex(index);
    const at = (index * this.#size + this.#wrId) >> 2;
    this.words[at] = wrId;
    this.words[at + 1] = 0;
    this.words[(index * this.#size + this.#numSge) >> 2] = 0;
  }

  protected checkIndex(index: number): void {
    if (index < 0 || index >= this.capacity) {
      throw new RangeError(`work request ${index} of ${this.capacity}`);
    }
  }

  protected addressAt(offset: number): number {
    return this.words[offset >> 2]! + this.words[(offset >> 2) + 1]! * high;
  }

  protected setAddress(offset: number, address: number): void {
    this.words[offset >> 2] = address;
    this.words[(offset >> 2) + 1] = address / high;
  }
}

const opcode = ibvSendWr.offset("opcode");
const sendFlags = ibvSendWr.offset("send_flags");
const immData = ibvSendWr.offset("imm_data");
const remoteAddress = ibvSendWr.offset("wr.rdma.remote_addr");
const rdmaRkey = ibvSendWr.offset("wr.rdma.rkey");
const compareAdd = ibvSendWr.offset("wr.atomic.compare_add");
const invalidateRkey = ibvSendWr.offset("invalidate_rkey");
const bindWindow = ibvSendWr.offset("bind_mw.mw");
const bindRkey = ibvSendWr.offset("bind_mw.rkey");
const bindRegion = ibvSendWr.offset("bind_mw.bind_info.mr");
const bindAddress = ibvSendWr.offset("bind_mw.bind_info.addr");
const bindLength = ibvSendWr.offset("bind_mw.bind_info.length");
const bindAccess = ibvSendWr.offset("bind_mw.bind_info.mw_access_flags");
const swap = ibvSendWr.offset("wr.atomic.swap");
const atomicRkey = ibvSendWr.offset("wr.atomic.rkey");

/** What a memory window is bound to (struct ibv_mw_bind_info). */
export interface Binding {
  /** Address of the window's struct ibv_mw. */
  readonly window: number;
  readonly rkey: number;
  /** Address of the region's struct ibv_mr. */
  readonly region: number;
  readonly address: number;
  /** Bytes. */
  readonly length: number;
  /** Flags of IBV_ACCESS. */
  readonly access: number;
}

/**
 * Send work requests in the layout of struct ibv_send_wr. Set up once, changed in place and
 * posted as often as wanted: the queue pair copies them when they are posted.
 */
export class SendWorkRequests extends WorkRequestList {
  constructor(capacity: number, maxSge = 1) {
    super(capacity, maxSge, ibvSendWr);
  }

  /**
   * Starts request `index`, without buffers yet.
   *
   * @param wrId 32 bits, returned by the completion
   * @param flags of {@linkcode SendFlag}
   */
  prepare(index: number, wrId: number, operation: Opcode, flags: number): this {
    return this.#start(index, wrId, operation, flags);
  }

  /** Makes request `index` one that binds a memory window, of a queue pair whose device has them. */
  prepareBind(index: number, wrId: number, flags: number, binding: Binding): this {
    const at = index * ibvSendWr.size;
    this.#start(index, wrId, V.IBV_WR_BIND_MW, flags);
    // rdma_rxe's library refuses what is left of another request here.
    this.words[(at + immData) >> 2] = 0;
    this.setAddress(at + bindWindow, binding.window);
    this.words[(at + bindRkey) >> 2] = binding.rkey;
    this.setAddress(at + bindRegion, binding.region);
    this.setAddress(at + bindAddress, binding.address);
    this.setAddress(at + bindLength, binding.length);
    this.words[(at + bindAccess) >> 2] = binding.access;
    return this;
  }

  /** Makes request `index` one that ends the binding of a memory window. */
  prepareInvalidate(index: number, wrId: number, flags: number, rkey: number): this {
    this.#start(index, wrId, V.IBV_WR_LOCAL_INV, flags);
    this.words[(index * ibvSendWr.size + invalidateRkey) >> 2] = rkey;
    return this;
  }

  /** The peer's memory, for READ and WRITE. */
  remote(index: number, address: number, rkey: number): this {
    const at = index * ibvSendWr.size;
    this.setAddress(at + remoteAddress, address);
    this.words[(at + rdmaRkey) >> 2] = rkey;
    return this;
  }

  /** 32 bits that travel with SEND_WITH_IMMEDIATE and WRITE_WITH_IMMEDIATE. */
  immediate(index: number, value: number): this {
    this.view.setUint32(index * ibvSendWr.size + immData, value, false);
    return this;
  }

  /**
   * The peer's 8 aligned bytes, for atomics; the buffer receives their former value.
   *
   * @param operand what to compare with, or to add
   * @param swapWith what to store if equal
   */
  atomic(index: number, address: number, rkey: number, operand: bigint, swapWith = 0n): this {
    const at = index * ibvSendWr.size;
    this.setAddress(at + remoteAddress, address);
    this.view.setBigUint64(at + compareAdd, operand, true);
    this.view.setBigUint64(at + swap, swapWith, true);
    this.words[(at + atomicRkey) >> 2] = rkey;
    return this;
  }

  #start(index: number, wrId: number, operation: number, flags: number): this {
    this.begin(index, wrId);
    const at = index * ibvSendWr.size;
    this.words[(at + opcode) >> 2] = operation;
    this.words[(at + sendFlags) >> 2] = flags;
    return this;
  }

  operationOf(index: number): Opcode {
    return this.words[(index * ibvSendWr.size + opcode) >> 2] as Opcode;
  }

  flagsOf(index: number): number {
    return this.words[(index * ibvSendWr.size + sendFlags) >> 2]!;
  }

  immediateOf(index: number): number {
    return this.view.getUint32(index * ibvSendWr.size + immData, false);
  }

  /** The peer's address, of READ, WRITE and atomics. */
  remoteAddressOf(index: number): number {
    return this.addressAt(index * ibvSendWr.size + remoteAddress);
  }

  /** Of READ and WRITE. */
  rkeyOf(index: number): number {
    return this.words[(index * ibvSendWr.size + rdmaRkey) >> 2]!;
  }

  atomicRkeyOf(index: number): number {
    return this.words[(index * ibvSendWr.size + atomicRkey) >> 2]!;
  }

  /** Half of what an atomic compares with or adds: 0 the lower, 1 the upper 32 bits. */
  operandOf(index: number, half: 0 | 1): number {
    return this.words[((index * ibvSendWr.size + compareAdd) >> 2) + half]!;
  }

  /** Half of what COMPARE_AND_SWAP stores. */
  swapOf(index: number, half: 0 | 1): number {
    return this.words[((index * ibvSendWr.size + swap) >> 2) + half]!;
  }
}

/** Receive work requests in the layout of struct ibv_recv_wr. */
export class ReceiveWorkRequests extends WorkRequestList {
  constructor(capacity: number, maxSge = 1) {
    super(capacity, maxSge, ibvRecvWr);
  }

  /** Starts request `index`, without buffers yet. `wrId` has 32 bits and is returned by the completion. */
  prepare(index: number, wrId: number): this {
    this.begin(index, wrId);
    return this;
  }
}
