import { ibvWc, WC_STATUS_NAMES, type WcStatusName } from "../../../ffi/libibverbs.ts";
import { type CompletionQueue, WorkCompletions } from "../completion_queue.ts";
import { DisposedError } from "../disposed_error.ts";

/** Completions taken by one poll: few, as sessions of a thread take turns, and some never have fewer. */
const BATCH = 8;

const stride = ibvWc.size / 4;
const wrIdWord = ibvWc.offset("wr_id") / 4;
const statusWord = ibvWc.offset("status") / 4;
const opcodeWord = ibvWc.offset("opcode") / 4;
const byteLengthWord = ibvWc.offset("byte_len") / 4;
const immediateOffset = ibvWc.offset("imm_data");
const qpnWord = ibvWc.offset("qp_num") / 4;
const flagsWord = ibvWc.offset("wc_flags") / 4;

const statusCodes = Object.fromEntries(
  WC_STATUS_NAMES.map((name, code) => [name, code]),
) as Record<WcStatusName, number>;

/** Addresses of completion queues: any numbers that differ, as asynchronous events name queues by them. */
let lastAddress = 0;

/** What a completion queue asks of its port. */
export interface CompletionPort {
  /** Receives and sends what there is. */
  progress(): void;
  /** A completion had no room in `queue`. */
  overflown(queue: RoceCompletionQueue): void;
}

/** A completion queue of the embedded provider: a ring in the layout of struct ibv_wc. */
export class RoceCompletionQueue implements CompletionQueue {
  readonly completions = new WorkCompletions(BATCH);
  readonly address = ++lastAddress;
  readonly #port: CompletionPort;
  readonly #ring: Uint32Array<ArrayBuffer>;
  readonly #view: DataView<ArrayBuffer>;
  readonly #target = new Uint32Array(this.completions.memory.buffer);
  readonly #depth: number;
  #first = 0;
  #count = 0;
  #overflown = false;
  #disposed = false;
  #waiting: PromiseWithResolvers<void> | undefined;

  constructor(port: CompletionPort, depth: number) {
    this.#port = port;
    this.#depth = depth;
    this.#ring = new Uint32Array(new ArrayBuffer(depth * ibvWc.size));
    this.#view = new DataView(this.#ring.buffer);
  }

  /** Adds a completion. Without room it is lost, and the queue is of no use from then on (IBTA volume 1, section 11.6.3.1). */
  push(
    wrId: number,
    status: WcStatusName,
    opcode: number,
    byteLength: number,
    qpn: number,
    flags = 0,
    immediate = 0,
  ): void {
    if (this.#disposed || this.#overflown) return;
    if (this.#count === this.#depth) {
      this.#overflown = true;
      return this.#port.overflown(this);
    }
    const index = (this.#first + this.#count) % this.#depth;
    const at = index * stride;
    this.#ring[at + wrIdWord] = wrId;
    this.#ring[at + wrIdWord + 1] = 0;
    this.#ring[at + statusWord] = statusCodes[status];
    this.#ring[at + opcodeWord] = opcode;
    this.#ring[at + byteLengthWord] = byteLength;
    this.#view.setUint32(index * ibvWc.size + immediateOffset, immediate);
    this.#ring[at + qpnWord] = qpn;
    this.#ring[at + flagsWord] = flags;
    this.#count += 1;
    this.#waiting?.resolve();
    this.#waiting = undefined;
  }

  poll(): number {
    if (this.#disposed) throw new DisposedError(this.constructor.name);
    if (this.#count === 0) this.#port.progress();
    const taken = Math.min(this.#count, BATCH);
    for (let index = 0; index < taken; index++) {
      const from = this.#first * stride;
      for (let word = 0; word < stride; word++) {
        this.#target[index * stride + word] = this.#ring[from + word]!;
      }
      this.#first = (this.#first + 1) % this.#depth;
    }
    this.#count -= taken;
    return taken;
  }

  async next(): Promise<number> {
    while (!this.#disposed) {
      const count = this.poll();
      if (count > 0) return count;
      this.#waiting ??= Promise.withResolvers();
      await this.#waiting.promise;
    }
    return 0;
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    this.#waiting?.resolve();
    this.#waiting = undefined;
  }
}
