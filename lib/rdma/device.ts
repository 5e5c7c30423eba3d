import type { CompletionQueue } from "./completion_queue.ts";
import type { Gid, GidType, PathMtu } from "./address.ts";
import type { ProtectionDomain } from "./protection_domain.ts";

/** Who moves the packets: a device of libibverbs, or this program over UDP. On the wire they are the same. */
export type Provider = "verbs" | "roce";

/** What a device can hold at most (struct ibv_device_attr). */
export interface DeviceLimits {
  readonly maxQueuePairs: number;
  /** Work requests outstanding on one queue. */
  readonly maxWorkRequests: number;
  readonly maxScatterGather: number;
  readonly maxCompletionQueueEntries: number;
  readonly maxMemoryRegions: number;
  /** Bytes of one region. */
  readonly maxMemoryRegionBytes: bigint;
  readonly maxMemoryWindows: number;
  readonly maxProtectionDomains: number;
  readonly maxCompletionQueues: number;
  /** READs and atomics that a queue pair can have outstanding as responder. */
  readonly maxDestRdAtomic: number;
  /** The same as initiator. */
  readonly maxRdAtomic: number;
  readonly atomics: boolean;
}

/** One entry of a port's GID table. */
export interface GidEntry {
  readonly index: number;
  readonly gid: Gid;
  readonly type: GidType;
}

export type PortState = "DOWN" | "INIT" | "ARMED" | "ACTIVE" | "UNKNOWN";

/** One port of a device (struct ibv_port_attr). */
export interface Port {
  /** From 1. */
  readonly number: number;
  readonly state: PortState;
  readonly linkLayer: "InfiniBand" | "Ethernet" | "unknown";
  readonly activeMtu: PathMtu;
  readonly maxMtu: PathMtu;
  /** Local identifier; 0 on Ethernet. */
  readonly lid: number;
  /** Bytes of one message. */
  readonly maxMessageBytes: number;
  readonly gids: readonly GidEntry[];
}

/** What happened to a device outside any work request (ibv_get_async_event(3)). */
export interface AsyncEvent {
  /** C name, for example IBV_EVENT_QP_FATAL, or `event N` for one not listed here. */
  readonly name: string;
  /** The queue pair, for events about one. */
  readonly qpn?: number;
  /** Address of the completion queue, for events about one. */
  readonly completionQueue?: number;
  /** The port, for events about one. */
  readonly port?: number;
  /** Sessions cannot go on: of that queue pair, of that port, or of the device. */
  readonly fatal: boolean;
}

/** What a port has counted of packets and requests that should not be. */
export interface PortErrors {
  /** Names the port, also beside others of the same device. */
  readonly name: string;
  /** Counting began before this program did. */
  readonly older: boolean;
  readonly counters: Readonly<Record<string, number>>;
}

/** An opened RDMA device. Disposing it closes it; everything made from it must be disposed before. */
export interface Device extends Disposable {
  readonly name: string;
  readonly provider: Provider;
  /** UDP port that packets must be sent to, of the embedded provider; to all others it is 4791. */
  readonly udpPort?: number;
  readonly firmware: string;
  readonly limits: DeviceLimits;
  /**
   * Whether only the queue pair that a memory window is bound to can end it. With rdma_rxe any can,
   * by a SEND with Invalidate, as it looks at neither queue pair nor protection domain then.
   */
  readonly guardsMemoryWindows?: boolean;
  /** The state of all ports now. */
  ports(): Port[];
  allocateProtectionDomain(): ProtectionDomain;
  /** @param depth completions that it holds at least */
  createCompletionQueue(depth: number): CompletionQueue;
  /** Counters of all ports that tell of errors, as they are now. */
  errorCounters(): PortErrors[];
  /** Calls `listener` for every asynchronous event until the signal aborts. */
  onAsyncEvent(listener: (event: AsyncEvent) => void, signal: AbortSignal): void;
}
