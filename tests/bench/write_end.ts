import { Memory } from "../../ffi/memory.ts";
import { MAX_24_BITS } from "../../lib/rdma/address.ts";
import type { CompletionQueue } from "../../lib/rdma/completion_queue.ts";
import type { GidEntry, Port } from "../../lib/rdma/device.ts";
import type { MemoryRegion } from "../../lib/rdma/memory_region.ts";
import type { QueuePair } from "../../lib/rdma/queue_pair.ts";
import { VerbsDevice } from "../../lib/rdma/verbs/device.ts";
import { Opcode, SendFlag, SendWorkRequests } from "../../lib/rdma/work_request.ts";
import { ipv4Gid, rxe } from "../vm/resources.ts";

/** What the other end has to know of an end; perftest exchanges the same. */
export interface EndDescription {
  qpn: number;
  psn: number;
  gid: string;
  /** Where the other end may write, in this end's memory. */
  address: number;
  rkey: number;
}

/** Looks at memory without a change until the other end counts as lost: some ten seconds. */
const SPIN_LIMIT = 2 ** 31;

/** Half of an RDMA WRITE benchmark: one reliable connection, and WRITEs of one size over it. */
export class WriteEnd implements Disposable {
  /** Name of the device. */
  readonly device = rxe;
  readonly port: Port;
  readonly gid: GidEntry;
  readonly #resources = new DisposableStack();
  readonly #queue: CompletionQueue;
  readonly #queuePair: QueuePair;
  /** What is sent from here, then what the other end writes here. */
  readonly #memory: Memory;
  readonly #region: MemoryRegion;
  readonly #sends = new SendWorkRequests(1);
  readonly #psn = crypto.getRandomValues(new Uint32Array(1))[0]! & MAX_24_BITS;
  #rounds = 0;

  /**
   * @param size bytes of a WRITE
   * @param depth WRITEs outstanding at most
   */
  constructor(readonly size: number, readonly depth: number) {
    const device = this.#resources.use(new VerbsDevice(this.device));
    this.port = device.ports()[0]!;
    this.gid = ipv4Gid(device);
    const protectionDomain = this.#resources.use(device.allocateProtectionDomain());
    this.#queue = this.#resources.use(device.createCompletionQueue(depth));
    this.#queuePair = this.#resources.use(protectionDomain.createQueuePair({
      sendQueue: this.#queue,
      receiveQueue: this.#queue,
      maxSend: depth,
      maxReceive: 1,
    }));
    this.#memory = this.#resources.use(new Memory(2 * size));
    this.#region = this.#resources.use(
      protectionDomain.registerMemory(this.#memory, ["LOCAL_WRITE", "REMOTE_WRITE"]),
    );
  }

  /** IPv4 address that the port's GID stands for. */
  get address(): string {
    return this.gid.gid.slice("::ffff:".length);
  }

  /** For the other end. */
  get description(): EndDescription {
    return {
      qpn: this.#queuePair.qpn,
      psn: this.#psn,
      gid: this.gid.gid,
      address: this.#region.address + this.size,
      rkey: this.#region.rkey,
    };
  }

  /** Brings the queue pair to RTS, with perftest's timers and retries. */
  connect(peer: EndDescription): void {
    const port = this.port.number;
    this.#queuePair.modify({ state: "INIT", pkeyIndex: 0, port, access: ["REMOTE_WRITE"] });
    this.#queuePair.modify({
      state: "RTR",
      pathMtu: this.port.activeMtu,
      destQpn: peer.qpn,
      rqPsn: peer.psn,
      maxDestRdAtomic: 1,
      minRnrTimer: 12,
      addressVector: {
        dgid: peer.gid,
        sgidIndex: this.gid.index,
        hopLimit: 64,
        trafficClass: 0,
        flowLabel: 0,
        serviceLevel: 0,
        dlid: 0,
        isGlobal: true,
        port,
      },
    });
    this.#queuePair.modify({
      state: "RTS",
      sqPsn: this.#psn,
      timeout: 14,
      retryCount: 7,
      rnrRetry: 7,
      maxRdAtomic: 1,
    });
    this.#sends.prepare(0, 0, Opcode.WRITE, SendFlag.SIGNALED)
      .buffer(0, this.#region.address, this.size, this.#region.lkey)
      .remote(0, peer.address, peer.rkey);
  }

  /**
   * Writes as fast as it goes and returns the milliseconds from the first post to the last
   * completion. As ib_write_bw does: one request a call, each signaled, the queue kept full.
   */
  stream(count: number): number {
    const start = performance.now();
    for (let posted = 0, completed = 0; completed < count;) {
      while (posted < count && posted - completed < this.depth) {
        this.#queuePair.postSend(this.#sends);
        posted++;
      }
      completed += this.#completed();
    }
    return performance.now() - start;
  }

  /**
   * Writes back and forth and leaves in `posts` the milliseconds at which each WRITE was posted
   * here. As ib_write_lat does: the last byte of a WRITE is the number of its round, each end waits
   * for the other's to appear in memory, then posts its own and waits for the completion.
   *
   * @param leads one end leads, that is, posts first; the other does not
   */
  pingPong(rounds: number, leads: boolean, posts?: Float64Array): void {
    for (let round = 0; round < rounds; round++) {
      if (!leads || round > 0) this.#awaitWrite(this.#rounds + round + (leads ? 0 : 1));
      if (posts) posts[round] = performance.now();
      this.#memory.bytes[this.size - 1] = this.#rounds + round + 1;
      this.#queuePair.postSend(this.#sends);
      while (this.#completed() === 0);
    }
    this.#rounds += rounds;
    if (leads) this.#awaitWrite(this.#rounds);
  }

  /** Takes completions, which must be good, and returns their number. */
  #completed(): number {
    const count = this.#queue.poll();
    for (let index = 0; index < count; index++) {
      if (!this.#queue.completions.succeeded(index)) throw this.#queue.completions.error(index);
    }
    return count;
  }

  #awaitWrite(round: number): void {
    // An atomic load: the compiler must not take it out of the loop, as the device writes there.
    const last = 2 * this.size - 1;
    for (let spins = 0; Atomics.load(this.#memory.bytes, last) !== (round & 0xff); spins++) {
      if (spins > SPIN_LIMIT) throw new Error("the other end has stopped writing");
    }
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }
}
