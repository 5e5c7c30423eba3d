import { ibvWc, V, WC_STATUS_NAMES, type WcStatusName } from "../../ffi/libibverbs.ts";
import { QueuePairError } from "../errors.ts";

const stride = ibvWc.size / 4;
const wrId = ibvWc.offset("wr_id") / 4;
const status = ibvWc.offset("status") / 4;
const opcode = ibvWc.offset("opcode") / 4;
const vendorError = ibvWc.offset("vendor_err") / 4;
const byteLength = ibvWc.offset("byte_len") / 4;
const immediate = ibvWc.offset("imm_data");
const flags = ibvWc.offset("wc_flags") / 4;

/** The completions that the last poll gave, in the layout of struct ibv_wc, read without allocating. */
export class WorkCompletions {
  readonly memory: Uint8Array<ArrayBuffer>;
  readonly #words: Uint32Array<ArrayBuffer>;
  readonly #view: DataView<ArrayBuffer>;

  constructor(readonly capacity: number) {
    this.memory = new Uint8Array(new ArrayBuffer(capacity * ibvWc.size));
    this.#words = new Uint32Array(this.memory.buffer);
    this.#view = new DataView(this.memory.buffer);
  }

  /** The lower 32 bits of wr_id: what {@linkcode SendWorkRequests} sets. */
  wrId(index: number): number {
    return this.#words[index * stride + wrId]!;
  }

  succeeded(index: number): boolean {
    return this.#words[index * stride + status] === 0;
  }

  /** Status under its C name. */
  status(index: number): WcStatusName {
    return WC_STATUS_NAMES[this.#words[index * stride + status]!] ?? "IBV_WC_GENERAL_ERR";
  }

  /** Whether this is a received message, or a WRITE with immediate that consumed a receive. Valid on success only. */
  isReceive(index: number): boolean {
    return (this.#words[index * stride + opcode]! & V.IBV_WC_RECV) !== 0;
  }

  /** Bytes received or read. Valid on success only. */
  byteLength(index: number): number {
    return this.#words[index * stride + byteLength]!;
  }

  hasImmediate(index: number): boolean {
    return (this.#words[index * stride + flags]! & V.IBV_WC_WITH_IMM) !== 0;
  }

  /** Immediate data as the sender's number: it travels in network byte order. */
  immediate(index: number): number {
    return this.#view.getUint32(index * ibvWc.size + immediate, false);
  }

  /** The error that a completion with a bad status stands for. */
  error(index: number): WorkCompletionError {
    return new WorkCompletionError(
      this.status(index),
      this.#words[index * stride + vendorError]!,
    );
  }
}

const remedies: Partial<Record<WcStatusName, string>> = {
  IBV_WC_RETRY_EXC_ERR:
    "the peer did not acknowledge: check that it still runs, that UDP port 4791 is open between the hosts, and that both ports have the same MTU",
  IBV_WC_RNR_RETRY_EXC_ERR: "the peer had no receive buffer posted: it may be overloaded",
  IBV_WC_REM_ACCESS_ERR: "the peer refused access to its memory: the grant may have ended",
  IBV_WC_LOC_PROT_ERR: "a local buffer was outside of its memory region",
  IBV_WC_WR_FLUSH_ERR: "the queue pair had already failed: look for an earlier error",
};

/** A work request that ended with a bad status. */
export class WorkCompletionError extends QueuePairError {
  override readonly name = "WorkCompletionError";

  /** @param status as `ibv_wc_status_str` knows it, under its C name */
  constructor(readonly status: WcStatusName, vendorError: number) {
    super(
      status.toLowerCase(),
      `a work request ended with ${status} (vendor error ${vendorError})`,
      remedies[status] ?? "",
    );
  }
}

/** Where the results of work requests arrive. */
export interface CompletionQueue extends Disposable {
  /** What asynchronous events name it by. */
  readonly address: number;
  /** What the last {@linkcode poll} or {@linkcode next} found. */
  readonly completions: WorkCompletions;
  /** Takes completions without waiting and returns their number, 0 when there is none. */
  poll(): number;
  /**
   * Waits for completions and returns their number: polls for a short while, then sleeps on the
   * completion channel. Returns 0 when the queue is being disposed.
   */
  next(): Promise<number>;
}
