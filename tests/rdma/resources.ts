import { Memory } from "../../ffi/memory.ts";
import { VerbsDevice } from "../../lib/rdma/verbs/device.ts";
import type { Access, MemoryRegion } from "../../lib/rdma/memory_region.ts";
import type { CompletionQueue } from "../../lib/rdma/completion_queue.ts";
import type { Device, GidEntry } from "../../lib/rdma/device.ts";
import type { PathMtu } from "../../lib/rdma/address.ts";
import type { ProtectionDomain } from "../../lib/rdma/protection_domain.ts";
import type { QueuePair } from "../../lib/rdma/queue_pair.ts";
import { ReceiveWorkRequests, SendWorkRequests } from "../../lib/rdma/work_request.ts";

/**
 * A test of verbs objects. Deno's sanitizers would count the libraries, which are loaded once for
 * the process, and the thread's one wait on its epoll descriptor, which outlives a test by a moment;
 * what is left in the kernel is counted with `rdma resource` where that is the subject.
 */
export function verbsTest(name: string, run: () => void | Promise<void>): void {
  Deno.test({ name, fn: run, sanitizeOps: false, sanitizeResources: false });
}

/** The guest's Soft-RoCE device. */
export const rxe = "rxe0";

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

/** One end of a reliable connection: a protection domain, a queue pair and registered memory of its own. */
export class ReliableEnd implements Disposable {
  readonly #resources = new DisposableStack();
  readonly protectionDomain: ProtectionDomain;
  readonly queue: CompletionQueue;
  readonly queuePair: QueuePair;
  readonly memory: Memory;
  readonly region: MemoryRegion;
  readonly sends = new SendWorkRequests(16);
  readonly receives = new ReceiveWorkRequests(16);
  readonly psn = crypto.getRandomValues(new Uint32Array(1))[0]! & 0xff_ffff;

  constructor(readonly device: Device, bytes = 65536, access: readonly Access[] = allAccess) {
    this.protectionDomain = this.#resources.use(device.allocateProtectionDomain());
    this.queue = this.#resources.use(device.createCompletionQueue(128));
    this.queuePair = this.#resources.use(this.protectionDomain.createQueuePair({
      sendQueue: this.queue,
      receiveQueue: this.queue,
      maxSend: 64,
      maxReceive: 16,
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

  readyToReceive(peer: ReliableEnd, pathMtu: PathMtu = 1024): void {
    const sgid = ipv4Gid(this.device);
    this.queuePair.modify({
      state: "RTR",
      pathMtu,
      destQpn: peer.queuePair.qpn,
      rqPsn: peer.psn,
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
      },
    });
  }

  readyToSend(): void {
    this.queuePair.modify({
      state: "RTS",
      sqPsn: this.psn,
      timeout: 10,
      retryCount: 3,
      rnrRetry: 3,
      maxRdAtomic: 4,
    });
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }
}

/** Two connected ends on the guest's device. */
export class ReliablePair implements Disposable {
  readonly #resources = new DisposableStack();
  readonly device = this.#resources.use(new VerbsDevice(rxe));
  readonly client: ReliableEnd;
  readonly server: ReliableEnd;

  constructor(access: readonly Access[] = allAccess, bytes = 65536) {
    this.client = this.#resources.use(new ReliableEnd(this.device, bytes));
    this.server = this.#resources.use(new ReliableEnd(this.device, bytes, access));
    this.client.init();
    this.server.init(access);
    this.client.readyToReceive(this.server);
    this.server.readyToReceive(this.client);
    this.client.readyToSend();
    this.server.readyToSend();
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }
}
