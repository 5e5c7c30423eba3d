import { Memory } from "../../ffi/memory.ts";
import { MAX_24_BITS } from "../../lib/rdma/address.ts";
import type { CompletionQueue } from "../../lib/rdma/completion_queue.ts";
import type { Device, GidEntry, Port } from "../../lib/rdma/device.ts";
import type { MemoryRegion } from "../../lib/rdma/memory_region.ts";
import type { ProtectionDomain } from "../../lib/rdma/protection_domain.ts";
import { openDevice } from "../../lib/rdma/provider.ts";
import type { QueuePair } from "../../lib/rdma/queue_pair.ts";
import { Opcode, SendFlag, SendWorkRequests } from "../../lib/rdma/work_request.ts";

/** What both ends of a benchmark are made with. */
export interface EndOptions {
  /** Name of the device, of either provider. */
  readonly device: string;
  /** Bytes of a WRITE. */
  readonly size: number;
  /** WRITEs outstanding at most on each queue pair. */
  readonly depth: number;
  /** 1 unless told. */
  readonly queuePairs?: number;
  /** Receives that each queue pair has room for; 1 unless told, as a WRITE takes none. */
  readonly maxReceive?: number;
}

/** What the other end has to know of an end; perftest exchanges the same. */
export interface EndDescription {
  readonly gid: string;
  /** Of the embedded provider. */
  readonly udpPort: number | undefined;
  /** Where the other end may write, in this end's memory. */
  readonly address: number;
  readonly rkey: number;
  readonly queuePairs: readonly QueuePairDescription[];
}

interface QueuePairDescription {
  readonly qpn: number;
  readonly psn: number;
}

/** Looks at memory between two looks at the clock. */
const SPINS = 2 ** 16;

/** Milliseconds without a change after which the other end counts as lost. */
const PATIENCE = 10_000;

/**
 * Half of an RDMA WRITE benchmark: reliable connections to one other end, and WRITEs of one size over
 * them. What a device does by itself the embedded provider does in a poll, or on the event loop.
 */
export class WriteEnd implements Disposable {
  readonly port: Port;
  readonly gid: GidEntry;
  readonly #device: Device;
  readonly #resources = new DisposableStack();
  readonly #queue: CompletionQueue;
  readonly #queuePairs: readonly QueuePair[];
  readonly #psns: Uint32Array;
  /** What is sent from here, then what the other end writes here. */
  readonly #memory: Memory;
  readonly #region: MemoryRegion;
  /** One for each queue pair, with its index as wr_id. */
  readonly #sends: SendWorkRequests;
  #rounds = 0;

  constructor(readonly options: EndOptions) {
    const { device: name, size, depth, queuePairs = 1 } = options;
    // Both ends have one address: RoCEv2's own port cannot be both's.
    const device = this.#resources.use(openDevice(name, { standardPort: false }));
    this.#device = device;
    this.port = device.ports()[0]!;
    this.gid = ipv4Gid(this.port);
    const protectionDomain = this.#resources.use(device.allocateProtectionDomain());
    this.#queue = this.#resources.use(device.createCompletionQueue(depth * queuePairs));
    this.#queuePairs = Array.from(
      { length: queuePairs },
      () => this.#resources.use(this.#createQueuePair(protectionDomain)),
    );
    this.#psns = crypto.getRandomValues(new Uint32Array(queuePairs)).map((n) => n & MAX_24_BITS);
    this.#memory = this.#resources.use(new Memory(2 * size));
    this.#region = this.#resources.use(
      protectionDomain.registerMemory(this.#memory, ["LOCAL_WRITE", "REMOTE_WRITE"]),
    );
    this.#sends = new SendWorkRequests(queuePairs);
  }

  /** IPv4 address that the port's GID stands for. */
  get address(): string {
    return this.gid.gid.slice("::ffff:".length);
  }

  /** For the other end. */
  get description(): EndDescription {
    return {
      gid: this.gid.gid,
      udpPort: this.#device.udpPort,
      address: this.#region.address + this.options.size,
      rkey: this.#region.rkey,
      queuePairs: this.#queuePairs.map(({ qpn }, index) => ({ qpn, psn: this.#psns[index]! })),
    };
  }

  /** Brings each queue pair to RTS with the other end's of the same index. */
  connect(peer: EndDescription): void {
    for (const [index, queuePair] of this.#queuePairs.entries()) {
      this.#connect(queuePair, this.#psns[index]!, peer, peer.queuePairs[index]!);
      this.#sends.prepare(index, index, Opcode.WRITE, SendFlag.SIGNALED)
        .buffer(index, this.#region.address, this.options.size, this.#region.lkey)
        .remote(index, peer.address, peer.rkey);
    }
  }

  /**
   * Writes as fast as it goes and returns the milliseconds from the first post to the last
   * completion. As ib_write_bw does: one request a call, each signaled, the queues kept full.
   */
  stream(count: number): number {
    const start = performance.now();
    const room = this.options.depth * this.#queuePairs.length;
    let posted = 0;
    for (; posted < Math.min(count, room); posted++) this.#post(posted % this.#queuePairs.length);
    for (let completed = 0; completed < count;) {
      const found = this.#completed();
      completed += found;
      for (let index = 0; index < found && posted < count; index++, posted++) {
        this.#post(this.#queue.completions.wrId(index));
      }
    }
    return performance.now() - start;
  }

  /**
   * Writes back and forth, each round on the next queue pair, and leaves in `posts` the milliseconds
   * at which each WRITE was posted here. As ib_write_lat does: the last byte of a WRITE is the number
   * of its round, each end waits for the other's to appear in memory, then posts its own and waits
   * for the completion.
   *
   * @param leads one end leads, that is, posts first; the other does not
   */
  pingPong(rounds: number, leads: boolean, posts?: Float64Array): void {
    for (let round = 0; round < rounds; round++) {
      if (!leads || round > 0) this.#awaitWrite(this.#rounds + round + (leads ? 0 : 1));
      if (posts) posts[round] = performance.now();
      this.#memory.bytes[this.options.size - 1] = this.#rounds + round + 1;
      this.#post(round % this.#queuePairs.length);
      while (this.#completed() === 0);
    }
    this.#rounds += rounds;
    if (leads) this.#awaitWrite(this.#rounds);
  }

  #createQueuePair(protectionDomain: ProtectionDomain): QueuePair {
    return protectionDomain.createQueuePair({
      sendQueue: this.#queue,
      receiveQueue: this.#queue,
      maxSend: this.options.depth,
      maxReceive: this.options.maxReceive ?? 1,
    });
  }

  /** With perftest's timers and retries. */
  #connect(
    queuePair: QueuePair,
    psn: number,
    { gid, udpPort }: EndDescription,
    peer: QueuePairDescription,
  ): void {
    const port = this.port.number;
    queuePair.modify({ state: "INIT", pkeyIndex: 0, port, access: ["REMOTE_WRITE"] });
    queuePair.modify({
      state: "RTR",
      pathMtu: this.port.activeMtu,
      destQpn: peer.qpn,
      rqPsn: peer.psn,
      maxDestRdAtomic: 1,
      minRnrTimer: 12,
      addressVector: {
        dgid: gid,
        sgidIndex: this.gid.index,
        hopLimit: 64,
        trafficClass: 0,
        flowLabel: 0,
        serviceLevel: 0,
        dlid: 0,
        isGlobal: true,
        port,
        ...(udpPort === undefined ? {} : { udpPort }),
      },
    });
    queuePair.modify({
      state: "RTS",
      sqPsn: psn,
      // A process may wait for a core for longer than perftest's timeout and retries last together.
      timeout: this.#device.provider === "verbs" ? 14 : 16,
      retryCount: 7,
      rnrRetry: 7,
      maxRdAtomic: 1,
    });
  }

  #post(queuePair: number): void {
    this.#queuePairs[queuePair]!.postSend(this.#sends, queuePair);
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
    const last = 2 * this.options.size - 1;
    // A device writes by itself, and polls would only delay the look: 17.3 µs instead of 16.2 on rxe0.
    const receives = this.#device.provider === "roce";
    // No look at the clock unless the wait is long: the round is being timed.
    let since: number | undefined;
    for (let spins = 1; Atomics.load(this.#memory.bytes, last) !== (round & 0xff); spins++) {
      if (receives) this.#completed();
      if (spins % SPINS !== 0) continue;
      since ??= performance.now();
      if (performance.now() - since > PATIENCE) {
        throw new Error("the other end has stopped writing");
      }
    }
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }
}

/** The first RoCE v2 GID over IPv4. */
function ipv4Gid({ gids }: Port): GidEntry {
  const entry = gids.find(({ gid, type }) => type === "RoCE v2" && gid.startsWith("::ffff:"));
  if (!entry) throw new Error("the port has no RoCE v2 GID over IPv4");
  return entry;
}
