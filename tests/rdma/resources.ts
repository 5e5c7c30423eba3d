import { assertEquals } from "@std/assert";
import type { WcStatusName } from "../../ffi/libibverbs.ts";
import { Memory } from "../../ffi/memory.ts";
import type { Access, MemoryRegion } from "../../lib/rdma/memory_region.ts";
import type { CompletionQueue } from "../../lib/rdma/completion_queue.ts";
import type { Device, GidEntry } from "../../lib/rdma/device.ts";
import type { PathMtu } from "../../lib/rdma/address.ts";
import { openDevice } from "../../lib/rdma/provider.ts";
import type { ProtectionDomain } from "../../lib/rdma/protection_domain.ts";
import type { QueuePair, QueuePairAttributes } from "../../lib/rdma/queue_pair.ts";
import { ReceiveWorkRequests, SendWorkRequests } from "../../lib/rdma/work_request.ts";
import { provider } from "../provider.ts";

/**
 * A test of verbs objects. Deno's sanitizers would count the libraries, which are loaded once for
 * the process, and the thread's one wait on its epoll descriptor, which outlives a test by a moment;
 * what is left in the kernel is counted with `rdma resource` where that is the subject.
 */
export function verbsTest(name: string, run: () => void | Promise<void>): void {
  Deno.test({ name, fn: run, sanitizeOps: false, sanitizeResources: false });
}

export const allAccess: readonly Access[] = [
  "LOCAL_WRITE",
  "REMOTE_READ",
  "REMOTE_WRITE",
  "REMOTE_ATOMIC",
];

/** The first RoCE v2 GID over IPv4 of a device's first port. */
export function ipv4Gid(device: Device): GidEntry {
  const gid = device.ports()[0]!.gids.find((entry) =>
    entry.type === "RoCE v2" && entry.gid.startsWith("::ffff:")
  );
  if (!gid) throw new Error(`${device.name} has no RoCE v2 GID over IPv4`);
  return gid;
}

/** Buffers of a work request. */
const BUFFERS = 3;

/** One end of a reliable connection: a protection domain, a queue pair and registered memory of its own. */
export class ReliableEnd implements Disposable {
  readonly #resources = new DisposableStack();
  readonly protectionDomain: ProtectionDomain;
  readonly queue: CompletionQueue;
  readonly queuePair: QueuePair;
  readonly memory: Memory;
  readonly region: MemoryRegion;
  readonly sends = new SendWorkRequests(16, BUFFERS);
  readonly receives = new ReceiveWorkRequests(16, BUFFERS);
  readonly psn = crypto.getRandomValues(new Uint32Array(1))[0]! & 0xff_ffff;

  /**
   * @param bytes of its memory
   * @param access what its region allows
   * @param completions that its queue holds at least
   */
  constructor(
    readonly device: Device,
    bytes = 65536,
    access: readonly Access[] = allAccess,
    completions = 128,
  ) {
    this.protectionDomain = this.#resources.use(device.allocateProtectionDomain());
    this.queue = this.#resources.use(device.createCompletionQueue(completions));
    this.queuePair = this.#resources.use(this.protectionDomain.createQueuePair({
      sendQueue: this.queue,
      receiveQueue: this.queue,
      maxSend: 64,
      maxReceive: 16,
      maxSendSge: BUFFERS,
      maxReceiveSge: BUFFERS,
      maxInline: 64,
    }));
    this.memory = this.#resources.use(new Memory(bytes));
    this.region = this.#resources.use(this.protectionDomain.registerMemory(this.memory, access));
  }

  init(access: readonly Access[] = allAccess): void {
    this.queuePair.modify({
      state: "INIT",
      pkeyIndex: 0,
      port: 1,
      access: access.filter((flag) => flag !== "LOCAL_WRITE"),
    });
  }

  readyToReceive(peer: ReliableEnd, pathMtu: PathMtu = 1024, rqPsn = peer.psn): void {
    const sgid = ipv4Gid(this.device);
    const { udpPort } = peer.device;
    this.queuePair.modify({
      state: "RTR",
      pathMtu,
      destQpn: peer.queuePair.qpn,
      rqPsn,
      maxDestRdAtomic: 4,
      minRnrTimer: 12,
      addressVector: {
        dgid: ipv4Gid(peer.device).gid,
        sgidIndex: sgid.index,
        hopLimit: 64,
        trafficClass: 0,
        flowLabel: 0,
        serviceLevel: 0,
        dlid: 0,
        isGlobal: true,
        port: 1,
        ...(udpPort === undefined ? {} : { udpPort }),
      },
    });
  }

  readyToSend(retries: Partial<QueuePairAttributes> = {}): void {
    this.queuePair.modify({
      state: "RTS",
      sqPsn: this.psn,
      timeout: 10,
      retryCount: 3,
      rnrRetry: 3,
      maxRdAtomic: 4,
      ...retries,
    });
  }

  /** Waits for one completion and gives its status. */
  async status(): Promise<WcStatusName> {
    assertEquals(await this.queue.next(), 1);
    return this.queue.completions.status(0);
  }

  /** Waits for one completion that must have succeeded. */
  async succeeded(): Promise<void> {
    assertEquals(await this.status(), "IBV_WC_SUCCESS");
  }

  /** Waits for so many completions; gives them in their order. */
  async outcomes(count: number): Promise<[wrId: number, status: WcStatusName][]> {
    const { queue } = this;
    const outcomes: [number, WcStatusName][] = [];
    while (outcomes.length < count) {
      const found = await queue.next();
      for (let index = 0; index < found; index++) {
        outcomes.push([queue.completions.wrId(index), queue.completions.status(index)]);
      }
    }
    return outcomes;
  }

  /** Posts a receive of so many bytes from an offset of the memory. */
  receive(wrId: number, offset: number, length: number): void {
    const { region } = this;
    this.receives.prepare(0, wrId).buffer(0, region.address + offset, length, region.lkey);
    this.queuePair.postReceive(this.receives);
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }
}

/** How a pair is set up; what is not said is as most tests want it. */
export interface PairOptions {
  /** What the server's region and queue pair allow. */
  readonly access?: readonly Access[];
  /** Bytes of each end's memory. */
  readonly bytes?: number;
  readonly pathMtu?: PathMtu;
  /** Attributes of the client's transition to RTS. */
  readonly retries?: Partial<QueuePairAttributes>;
}

/** Two connected ends on the provider's device. */
export class ReliablePair implements Disposable {
  readonly #resources = new DisposableStack();
  readonly device = this.#resources.use(openDevice(provider.device));
  readonly client: ReliableEnd;
  readonly server: ReliableEnd;

  constructor({ access = allAccess, bytes = 65536, pathMtu, retries }: PairOptions = {}) {
    this.client = this.#resources.use(new ReliableEnd(this.device, bytes));
    this.server = this.#resources.use(new ReliableEnd(this.device, bytes, access));
    this.client.init();
    this.server.init(access);
    this.client.readyToReceive(this.server, pathMtu);
    this.server.readyToReceive(this.client, pathMtu);
    this.client.readyToSend(retries);
    this.server.readyToSend();
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }
}
