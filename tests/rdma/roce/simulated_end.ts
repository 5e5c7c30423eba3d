/** Ports and queue pairs of the embedded provider on a simulated network. */
import type { WcStatusName } from "../../../ffi/libibverbs.ts";
import { Memory } from "../../../ffi/memory.ts";
import { formatGid, type PathMtu } from "../../../lib/rdma/address.ts";
import type { AsyncEvent } from "../../../lib/rdma/device.ts";
import type { Access, MemoryRegion } from "../../../lib/rdma/memory_region.ts";
import type { QueuePairAttributes } from "../../../lib/rdma/queue_pair.ts";
import { RoceCompletionQueue } from "../../../lib/rdma/roce/completion_queue.ts";
import { Endpoint, ROCE_UDP_PORT } from "../../../lib/rdma/roce/endpoint.ts";
import { RocePort } from "../../../lib/rdma/roce/port.ts";
import { RoceProtectionDomain } from "../../../lib/rdma/roce/protection_domain.ts";
import type { RoceQueuePair } from "../../../lib/rdma/roce/queue_pair.ts";
import { ReceiveWorkRequests, SendWorkRequests } from "../../../lib/rdma/work_request.ts";
import type { SimulatedNetwork, SimulatedWire } from "./simulated_network.ts";

export type IpVersion = "IPv4" | "IPv6";

/** Requests that each queue of a queue pair has room for. */
export const QUEUE_DEPTH = 64;
export const MAX_INLINE = 64;

const ALL_ACCESS: readonly Access[] = [
  "LOCAL_WRITE",
  "REMOTE_READ",
  "REMOTE_WRITE",
  "REMOTE_ATOMIC",
];

/** A host with a port, numbered from 1. */
export class SimulatedHost implements Disposable {
  readonly wire: SimulatedWire;
  readonly port: RocePort;
  readonly events: AsyncEvent[] = [];

  constructor(network: SimulatedNetwork, number: number, version: IpVersion) {
    const address = version === "IPv4"
      ? Uint8Array.of(10, 9, 0, number)
      : Uint8Array.of(0xfd, 9, ...new Uint8Array(13), number);
    this.wire = network.attach(new Endpoint(address, ROCE_UDP_PORT));
    this.port = new RocePort(
      this.wire,
      () => network.now,
      (event) => this.events.push(event),
    );
  }

  [Symbol.dispose](): void {
    this.port[Symbol.dispose]();
  }
}

/** A work request that is done. */
export interface Outcome {
  readonly wrId: number;
  readonly status: WcStatusName;
  /** Of successful ones. */
  readonly bytes: number;
  /** Of received messages that have some. */
  readonly immediate?: number;
}

/** A queue pair with all that it needs. */
export class SimulatedEnd implements Disposable {
  readonly memory: Memory;
  readonly region: MemoryRegion;
  readonly queuePair: RoceQueuePair;
  readonly protectionDomain: RoceProtectionDomain;
  readonly sends = new SendWorkRequests(QUEUE_DEPTH);
  readonly receives = new ReceiveWorkRequests(QUEUE_DEPTH);
  /** What has become of sends and of receives, as of the last {@linkcode collect}. */
  readonly sent: Outcome[] = [];
  readonly received: Outcome[] = [];
  readonly #sendQueue: RoceCompletionQueue;
  readonly #receiveQueue: RoceCompletionQueue;
  readonly #resources = new DisposableStack();

  /**
   * @param bytes of its memory
   * @param granted the part of it that the peer may use: offset and bytes; by default all
   */
  constructor(
    readonly host: SimulatedHost,
    bytes: number,
    readonly psn: number,
    granted: readonly [offset: number, bytes: number] = [0, bytes],
  ) {
    const { port } = host;
    this.protectionDomain = this.#resources.use(new RoceProtectionDomain(port));
    this.#sendQueue = this.#resources.use(new RoceCompletionQueue(port, QUEUE_DEPTH));
    this.#receiveQueue = this.#resources.use(new RoceCompletionQueue(port, QUEUE_DEPTH));
    this.queuePair = this.#resources.use(this.protectionDomain.createQueuePair({
      sendQueue: this.#sendQueue,
      receiveQueue: this.#receiveQueue,
      maxSend: QUEUE_DEPTH,
      maxReceive: QUEUE_DEPTH,
      maxInline: MAX_INLINE,
    }));
    this.memory = this.#resources.use(new Memory(bytes));
    this.region = this.#resources.use(
      this.protectionDomain.registerMemory(this.memory, ALL_ACCESS, ...granted),
    );
  }

  /** Brings the queue pair to RTS. */
  connect(
    peer: { readonly address: Endpoint; readonly qpn: number; readonly psn: number },
    pathMtu: PathMtu,
    more: Partial<QueuePairAttributes> = {},
  ): void {
    const { maxDestRdAtomic = 4, minRnrTimer = 12, ...sending } = more;
    const access = ALL_ACCESS.filter((flag) => flag !== "LOCAL_WRITE");
    this.queuePair.modify({ state: "INIT", pkeyIndex: 0, port: 1, access });
    this.queuePair.modify({
      state: "RTR",
      pathMtu,
      destQpn: peer.qpn,
      rqPsn: peer.psn,
      maxDestRdAtomic,
      minRnrTimer,
      addressVector: {
        dgid: gidOf(peer.address),
        udpPort: peer.address.port,
        sgidIndex: 0,
        hopLimit: 64,
        trafficClass: 0,
        flowLabel: 0,
        serviceLevel: 0,
        dlid: 0,
        isGlobal: true,
        port: 1,
      },
    });
    this.queuePair.modify({
      state: "RTS",
      sqPsn: this.psn,
      timeout: 14,
      retryCount: 7,
      rnrRetry: 7,
      maxRdAtomic: 4,
      ...sending,
    });
  }

  /** Takes all completions that there are. */
  collect(): void {
    take(this.#sendQueue, this.sent);
    take(this.#receiveQueue, this.received);
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }
}

/** Connects two ends with each other. */
export function connectEnds(
  one: SimulatedEnd,
  other: SimulatedEnd,
  pathMtu: PathMtu,
  more: Partial<QueuePairAttributes> = {},
): void {
  const peer = ({ host, queuePair: { qpn }, psn }: SimulatedEnd) => ({
    address: host.port.local,
    qpn,
    psn,
  });
  one.connect(peer(other), pathMtu, more);
  other.connect(peer(one), pathMtu, more);
}

function gidOf({ address }: Endpoint): string {
  if (address.length === 16) return formatGid(address);
  return formatGid(Uint8Array.of(...new Uint8Array(10), 0xff, 0xff, ...address));
}

function take(queue: RoceCompletionQueue, outcomes: Outcome[]): void {
  const { completions } = queue;
  for (let count = queue.poll(); count > 0; count = queue.poll()) {
    for (let index = 0; index < count; index++) {
      outcomes.push({
        wrId: completions.wrId(index),
        status: completions.status(index),
        bytes: completions.succeeded(index) ? completions.byteLength(index) : 0,
        ...(completions.hasImmediate(index) && { immediate: completions.immediate(index) }),
      });
    }
  }
}
