import type { WcStatusName } from "../../../ffi/libibverbs.ts";
import type { CongestionWindow } from "./congestion.ts";
import type { Counters } from "./counters.ts";
import type { Destination } from "./endpoint.ts";
import type { RegionTable } from "./memory_region.ts";

/** What a queue pair's requester, responder and completer use of its port. */
export interface PortServices {
  readonly counters: Counters;
  readonly regions: RegionTable;
  /** Milliseconds, of the progress under way. */
  readonly now: number;
  /** Where packets are written. */
  readonly transmitBytes: Uint8Array<ArrayBuffer>;
  readonly transmitView: DataView<ArrayBuffer>;
  /** Makes room for a packet and returns its offset; -1 when the socket takes none at present. */
  beginPacket(destination: Destination, packetBytes: number): number;
  /** Ends the packet at `at`. */
  endPacket(at: number, packetBytes: number): void;
}

/** What the transitions to INIT, RTR and RTS set, and what the three parts of a queue pair share. */
export interface Connection {
  readonly port: PortServices;
  readonly protectionDomain: object;
  readonly destination: Destination;
  readonly window: Pick<
    CongestionWindow<unknown>,
    "room" | "acknowledged" | "lost" | "adjust" | "forget"
  >;
  readonly destQpn: number;
  /** Bytes of a packet's payload. */
  readonly mtu: number;
  /** What the peer may do, flags of IBV_ACCESS. */
  access: number;
  readonly maxDestRdAtomic: number;
  /** RNR timer code that is sent with an RNR NAK. */
  minRnrTimer: number;
  maxRdAtomic: number;
  /** Milliseconds; Infinity for ever. */
  timeout: number;
  retryCount: number;
  rnrRetry: number;
  /** The queue pair has something to send. */
  schedule(): void;
  /** Asks to be scheduled when the window has room. */
  awaitWindow(): void;
  /** Tells the window how many bytes are on their way now. */
  settleWindow(): void;
  /** Something has to be looked at by `deadline`, in milliseconds. */
  arm(deadline: number): void;
  /** Ends the queue pair. */
  fail(): void;
  /** Ends the queue pair, for what the peer asked: an asynchronous event. */
  failForPeer(event: "IBV_EVENT_QP_REQ_ERR" | "IBV_EVENT_QP_ACCESS_ERR"): void;
  /** Reports a received message. */
  received(
    wrId: number,
    status: WcStatusName,
    byteLength: number,
    withWrite: boolean,
    immediate: number | undefined,
  ): void;
  /** Reports a send work request. */
  sent(wrId: number, status: WcStatusName, opcode: number, byteLength: number): void;
}
