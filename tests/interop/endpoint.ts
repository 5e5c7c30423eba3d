import { Memory } from "../../ffi/memory.ts";
import type { Gid, PathMtu } from "../../lib/rdma/address.ts";
import type { CompletionQueue } from "../../lib/rdma/completion_queue.ts";
import type { Device, GidEntry } from "../../lib/rdma/device.ts";
import type { MemoryRegion } from "../../lib/rdma/memory_region.ts";
import type { QueuePair } from "../../lib/rdma/queue_pair.ts";
import {
  Opcode,
  ReceiveWorkRequests,
  SendFlag,
  SendWorkRequests,
} from "../../lib/rdma/work_request.ts";

/** What the programs tell each other of a queue pair. */
export interface QueuePairNumbers {
  readonly qpn: number;
  /** Of the first packet sent. */
  readonly psn: number;
  readonly gid: Gid;
}

/** A device's first port and the address to use there. Disposing it ends the device and the endpoints on it. */
export class LocalPort implements Disposable {
  readonly activeMtu: PathMtu;
  readonly gid: GidEntry;
  readonly #resources = new DisposableStack();

  /** @param gid GID of RoCE v2 */
  constructor(readonly device: Device, gid: Gid) {
    this.#resources.use(device);
    const { activeMtu, gids } = device.ports()[0]!;
    const entry = gids.find((entry) => entry.gid === gid && entry.type === "RoCE v2");
    if (!entry) throw new Error(`${device.name} has no RoCE v2 GID ${gid}`);
    this.activeMtu = activeMtu;
    this.gid = entry;
  }

  open(options: EndpointOptions): Endpoint {
    return this.#resources.use(new Endpoint(this, options));
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }
}

export interface EndpointOptions {
  /** Bytes of a message. */
  readonly size: number;
  /** Buffers of that size, and work requests outstanding at most on each queue. */
  readonly slots: number;
}

/** A completion that succeeded. */
export interface Completion {
  /** Buffer of the work request. */
  readonly slot: number;
  readonly isReceive: boolean;
  /** Bytes received. Of receives only. */
  readonly byteLength: number;
}

/** One end of a reliable connection to a program not ours, and memory in slots of a message's size. */
export class Endpoint implements Disposable, QueuePairNumbers {
  readonly psn = crypto.getRandomValues(new Uint32Array(1))[0]! & 0xff_ffff;
  readonly region: MemoryRegion;
  /** READs that it can have outstanding, and serve at once. */
  readonly readDepth: number;
  readonly #resources = new DisposableStack();
  readonly #queue: CompletionQueue;
  readonly #queuePair: QueuePair;
  readonly #memory: Memory;
  readonly #sends = new SendWorkRequests(1);
  readonly #receives = new ReceiveWorkRequests(1);

  /** The queue pair is in INIT then: receives can be posted. */
  constructor(readonly port: LocalPort, private readonly options: EndpointOptions) {
    const { device } = port;
    const { size, slots } = options;
    this.readDepth = Math.min(16, device.limits.maxRdAtomic, device.limits.maxDestRdAtomic);
    const domain = this.#resources.use(device.allocateProtectionDomain());
    this.#queue = this.#resources.use(device.createCompletionQueue(2 * slots));
    this.#queuePair = this.#resources.use(domain.createQueuePair({
      sendQueue: this.#queue,
      receiveQueue: this.#queue,
      maxSend: slots,
      maxReceive: slots,
    }));
    this.#memory = this.#resources.use(new Memory(size * slots));
    const remote = ["REMOTE_WRITE", "REMOTE_READ"] as const;
    this.region = this.#resources.use(
      domain.registerMemory(this.#memory, ["LOCAL_WRITE", ...remote]),
    );
    this.#queuePair.modify({ state: "INIT", pkeyIndex: 0, port: 1, access: remote });
  }

  get qpn(): number {
    return this.#queuePair.qpn;
  }

  get gid(): Gid {
    return this.port.gid.gid;
  }

  /** The bytes of a slot: a view. */
  slot(index: number): Uint8Array<ArrayBuffer> {
    const { size } = this.options;
    return this.#memory.bytes.subarray(index * size, (index + 1) * size);
  }

  /** Brings the queue pair to RTS, with the programs' timers: 14 and 12, 7 retries, RNR retries for ever. */
  connect(remote: QueuePairNumbers, pathMtu: PathMtu, readsOutstanding = 1): void {
    this.#queuePair.modify({
      state: "RTR",
      pathMtu,
      destQpn: remote.qpn,
      rqPsn: remote.psn,
      maxDestRdAtomic: this.readDepth,
      minRnrTimer: 12,
      addressVector: {
        dgid: remote.gid,
        sgidIndex: this.port.gid.index,
        hopLimit: 64,
        trafficClass: 0,
        flowLabel: 0,
        serviceLevel: 0,
        dlid: 0,
        isGlobal: true,
        port: 1,
      },
    });
    this.#queuePair.modify({
      state: "RTS",
      sqPsn: this.psn,
      timeout: 14,
      retryCount: 7,
      rnrRetry: 7,
      maxRdAtomic: Math.min(readsOutstanding, this.readDepth),
    });
  }

  postReceive(slot: number): void {
    const { address, lkey } = this.region;
    const { size } = this.options;
    this.#receives.prepare(0, slot).buffer(0, address + slot * size, size, lkey);
    this.#queuePair.postReceive(this.#receives);
  }

  postSend(slot: number): void {
    this.#post(Opcode.SEND, slot);
  }

  postWrite(slot: number, address: number, rkey: number): void {
    this.#post(Opcode.WRITE, slot, { address, rkey });
  }

  postRead(slot: number, address: number, rkey: number): void {
    this.#post(Opcode.READ, slot, { address, rkey });
  }

  /**
   * Waits for completions.
   *
   * @throws WorkCompletionError when one did not succeed
   * @throws Error when the endpoint is disposed meanwhile
   */
  async completions(): Promise<Completion[]> {
    const count = await this.#queue.next();
    if (count === 0) throw new Error("the endpoint was disposed");
    const { completions } = this.#queue;
    return Array.from({ length: count }, (_, index) => {
      if (!completions.succeeded(index)) throw completions.error(index);
      return {
        slot: completions.wrId(index),
        isReceive: completions.isReceive(index),
        byteLength: completions.byteLength(index),
      };
    });
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }

  #post(opcode: Opcode, slot: number, remote?: { address: number; rkey: number }): void {
    const { address, lkey } = this.region;
    const { size } = this.options;
    this.#sends.prepare(0, slot, opcode, SendFlag.SIGNALED)
      .buffer(0, address + slot * size, size, lkey);
    if (remote) this.#sends.remote(0, remote.address, remote.rkey);
    this.#queuePair.postSend(this.#sends);
  }
}
