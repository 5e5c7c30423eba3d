import type { SealKeys } from "../control/keys.ts";
import type { QueuePairNumbers, Service } from "../control/messages.ts";
import type { AgreedPath } from "../control/path.ts";
import type { LimitName, VerbsealError } from "../errors.ts";
import type { GidType, PathMtu } from "../rdma/address.ts";
import type { Provider } from "../rdma/device.ts";
import type { QueuePairAttributes } from "../rdma/queue_pair.ts";
import type { Permissions } from "../security/policy.ts";
import type { KernelTls } from "../tls/connection.ts";
import type { DataConnection } from "../tls/data_connection.ts";
import type { SessionLimits } from "./limits.ts";
import type { ResumedTransfer } from "./service.ts";
import type { SessionUsage } from "./usage.ts";

/** The port and the GID that a session's queue pair uses. */
export interface PortChoice {
  readonly provider: Provider;
  readonly device: string;
  /** Sessions that the device has room for. */
  readonly room: number;
  readonly port: number;
  readonly gid: string;
  readonly gidIndex: number;
  readonly gidType: GidType;
  readonly lid: number;
  readonly mtu: PathMtu;
}

/** How a session's data path is made, whatever carries it. Plain data: it crosses threads. */
export interface DataPathOptions {
  /** The server answers, the client asks. */
  readonly side: "client" | "server";
  /** Bytes of a message at most. */
  readonly messageBytes: number;
  readonly services: readonly Service[];
  /** What the server's policy lets the peer do; at a client, which nobody restricts, there is none. */
  readonly permissions?: Permissions;
  /** What the server lets the session use; at a client there is none. */
  readonly limits?: SessionLimits;
  /** Name of the session, at a server. */
  readonly session?: string;
  /** Name of the earlier one that it goes on with. */
  readonly resume?: string | undefined;
  /** Who the peer is, at a server. */
  readonly identity?: string;
  /** In whose quota is what outlives the session: the identity, or the address of who has none. */
  readonly owner?: string;
}

/** How one over a queue pair is made. */
export interface QueuePairPathOptions extends DataPathOptions {
  readonly port: PortChoice;
  readonly peerProvider: Provider;
}

/** What `allocate` gives: all of a QP message but the epoch and the PSN. */
export type LocalQueuePair = Omit<QueuePairNumbers, "epoch" | "psn">;

/** Attributes that a connection manager gives for the three transitions. */
export interface ManagedAttributes {
  readonly init: QueuePairAttributes;
  readonly rtr: QueuePairAttributes;
  readonly rts: QueuePairAttributes;
}

/** How the queue pair is brought up. */
export interface ConnectOrder {
  readonly local: QueuePairNumbers;
  readonly remote: QueuePairNumbers;
  readonly path: AgreedPath;
  /** Wiped by who carries the order out; without it the session is not sealed. */
  readonly seal?: SealKeys;
  /** With `--connect cm`; their PSNs are replaced by those agreed. */
  readonly managed?: ManagedAttributes;
}

/** What is left to be known of a data path that has ended. */
export interface FinalState {
  /** Where its queue pair stood, if it had one. */
  readonly queuePair?: { readonly qpn: number; readonly sqPsn: number } | undefined;
  readonly usage: SessionUsage;
}

/**
 * Everything of one session that touches data: what carries it, registered memory, buffers and
 * files. The control thread drives it, in a worker or in its own thread.
 */
export interface DataPath {
  /** Passes a REQUEST to the service and gives the body of its REPLY. */
  request(service: Service, body: unknown): Promise<unknown>;
  /**
   * Frees everything, exactly once.
   *
   * @param reason why, if the peer did not wish it: what services have under way may be gone on with
   */
  close(reason?: string): Promise<FinalState>;
  /**
   * Resolves when the path has ended: by a broken rule, a dead port, or close; with a QueuePairError
   * when it was the queue pair alone that failed.
   */
  readonly failure: Promise<VerbsealError>;
  /** Told the code of a limit that slows the session down, as often as that happens. */
  onSlowed?: ((limit: LimitName) => void) | undefined;
  /** At a server, told of each transfer that goes on. */
  onResumed?: ((transfer: ResumedTransfer) => void) | undefined;
}

/** A data path over a queue pair, with its protection domain and completion queue. */
export interface QueuePairPath extends DataPath {
  /** Creates everything; the queue pair is in RESET. */
  allocate(): Promise<LocalQueuePair>;
  /**
   * Brings the queue pair to RTS with exactly the numbers agreed, then compares.
   *
   * @throws IntegrityError when the device reports another PSN than was agreed
   */
  connect(order: ConnectOrder): Promise<void>;
  /**
   * Sends `own` as the first message and resolves when `expected` was the first received.
   *
   * @throws IntegrityError when it was another
   */
  prove(own: Uint8Array, expected: Uint8Array): Promise<void>;
}

/** A data path over TLS connections of its own, one after the other. */
export interface StreamPath extends DataPath {
  /**
   * Goes on over this connection, which is the path's from then on: with the first one services
   * begin, each later one replaces the one before without losing a byte. Resolves when it is in
   * use both ways; only then another may follow.
   */
  use(connection: DataConnection): Promise<KernelTls>;
  /** Client: resolves when another connection should replace the present one. A server lets it decide. */
  renewalDue?(): Promise<void>;
}
