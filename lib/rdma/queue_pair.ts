import type { CompletionQueue } from "./completion_queue.ts";
import { type Gid, MAX_24_BITS, type PathMtu } from "./address.ts";
import type { Access } from "./memory_region.ts";
import type { ReceiveWorkRequests, SendWorkRequests } from "./work_request.ts";
import { RdmaError } from "../errors.ts";

/** States of a queue pair (enum ibv_qp_state; IBTA volume 1, section 10.3.1). */
export type QueuePairState = "RESET" | "INIT" | "RTR" | "RTS" | "SQD" | "SQE" | "ERR";

/** What a queue pair is created with (struct ibv_qp_init_attr). */
export interface QueuePairOptions {
  readonly sendQueue: CompletionQueue;
  readonly receiveQueue: CompletionQueue;
  /** Send work requests outstanding at most. */
  readonly maxSend: number;
  /** Receive work requests outstanding at most. */
  readonly maxReceive: number;
  readonly maxSendSge?: number;
  readonly maxReceiveSge?: number;
  /** Bytes that a request may carry inline. */
  readonly maxInline?: number;
}

/** The path to the peer (struct ibv_ah_attr). */
export interface AddressVector {
  readonly dgid: Gid;
  readonly sgidIndex: number;
  readonly hopLimit: number;
  readonly trafficClass: number;
  readonly flowLabel: number;
  readonly serviceLevel: number;
  /** Local identifier of the peer's port; 0 on Ethernet. */
  readonly dlid: number;
  /** Whether packets bear a global route header: always on RoCE. */
  readonly isGlobal: boolean;
  readonly port: number;
  /** UDP port that the peer's packets go to, if not RoCEv2's own. A device only knows that one. */
  readonly udpPort?: number;
}

/** Attributes of a queue pair (struct ibv_qp_attr): those given are set by a transition. */
export interface QueuePairAttributes {
  readonly state?: QueuePairState;
  readonly pkeyIndex?: number;
  readonly port?: number;
  /** What the peer may do through this queue pair. */
  readonly access?: readonly Access[];
  readonly addressVector?: AddressVector;
  readonly pathMtu?: PathMtu;
  readonly destQpn?: number;
  /** PSN that the first packet received must bear. */
  readonly rqPsn?: number;
  /** READs and atomics of the peer that are served at once. */
  readonly maxDestRdAtomic?: number;
  /** Code of the time that a peer waits after an RNR NAK (IBTA volume 1, table 45). */
  readonly minRnrTimer?: number;
  /** PSN of the first packet sent. */
  readonly sqPsn?: number;
  /** Acknowledgements are awaited for 4.096 µs × 2^timeout; 0 for ever. */
  readonly timeout?: number;
  readonly retryCount?: number;
  /** Retries after RNR NAK; 7 means for ever. */
  readonly rnrRetry?: number;
  /** READs and atomics outstanding at most. */
  readonly maxRdAtomic?: number;
}

export type QueuePairAttribute = Exclude<keyof QueuePairAttributes, "state">;

/** What the device says about a queue pair (ibv_query_qp(3)). PSNs advance with traffic. */
export interface QueuePairStatus {
  readonly state: QueuePairState;
  readonly sqPsn: number;
  readonly rqPsn: number;
  readonly destQpn: number;
}

/** A reliable connected queue pair. */
export interface QueuePair extends Disposable {
  readonly qpn: number;
  /** As set by the last transition: the device may have gone on to ERR since. */
  readonly state: QueuePairState;
  /**
   * Makes a transition.
   *
   * @throws TransitionError naming the attributes that are missing or not allowed, or what the device refused
   */
  modify(attributes: QueuePairAttributes & { readonly state: QueuePairState }): void;
  /**
   * Makes a transition as {@linkcode modify} does, on another thread, where it may take long: that
   * to RTR waits until the peer's MAC address is known, or nobody has told it. The queue pair must
   * stay until it has resolved, and no other transition be made meanwhile.
   */
  modifyAside?(
    attributes: QueuePairAttributes & { readonly state: QueuePairState },
  ): Promise<void>;
  query(): QueuePairStatus;
  /**
   * Posts `count` requests from index `first`, in one call.
   *
   * @throws VerbsError for example ENOMEM, when the send queue is full
   */
  postSend(requests: SendWorkRequests, first?: number, count?: number): void;
  /** Posts `count` receives from index `first`, in one call. */
  postReceive(requests: ReceiveWorkRequests, first?: number, count?: number): void;
}

/** Attributes that a transition of a reliable connected queue pair needs and may have. */
export interface Transition {
  readonly required: readonly QueuePairAttribute[];
  readonly optional: readonly QueuePairAttribute[];
}

const end: Transition = { required: [], optional: [] };

/** Transitions by "FROM→TO" (IBTA volume 1, table 96; ibv_modify_qp(3)). Any state may go to RESET and ERR. */
const transitions: Readonly<Record<string, Transition>> = {
  "RESET→INIT": { required: ["pkeyIndex", "port", "access"], optional: [] },
  "INIT→INIT": { required: [], optional: ["pkeyIndex", "port", "access"] },
  "INIT→RTR": {
    required: [
      "addressVector",
      "pathMtu",
      "destQpn",
      "rqPsn",
      "maxDestRdAtomic",
      "minRnrTimer",
    ],
    optional: ["pkeyIndex", "access"],
  },
  "RTR→RTS": {
    required: ["sqPsn", "timeout", "retryCount", "rnrRetry", "maxRdAtomic"],
    optional: ["access", "minRnrTimer"],
  },
  "RTS→RTS": { required: [], optional: ["access", "minRnrTimer"] },
};

/** A transition that was refused. */
export class TransitionError extends RdmaError {
  override readonly name = "TransitionError";

  constructor(
    readonly from: QueuePairState,
    readonly to: QueuePairState,
    readonly missing: readonly string[],
    readonly notAllowed: readonly string[],
    reason: string,
    options?: ErrorOptions,
  ) {
    super(
      "transition_refused",
      `queue pair transition ${from} → ${to} refused: ${reason}`,
      "",
      options,
    );
  }
}

/** The rule of a transition, or undefined when there is none such. */
export function transitionOf(from: QueuePairState, to: QueuePairState): Transition | undefined {
  return to === "RESET" || to === "ERR" ? end : transitions[`${from}→${to}`];
}

/**
 * Checks a transition before the device sees it, as the device says no more than EINVAL.
 *
 * @throws TransitionError naming the attributes that are missing, not allowed, or out of range
 */
export function checkTransition(
  from: QueuePairState,
  attributes: QueuePairAttributes & { readonly state: QueuePairState },
): void {
  const { state: to, ...given } = attributes;
  const rule = transitionOf(from, to);
  if (!rule) throw new TransitionError(from, to, [], [], "there is no such transition");
  const names = (Object.keys(given) as QueuePairAttribute[])
    .filter((name) => given[name] !== undefined);
  const missing = rule.required.filter((name) => given[name] === undefined);
  const allowed = new Set([...rule.required, ...rule.optional]);
  const notAllowed = names.filter((name) => !allowed.has(name));
  const wrong = names.flatMap((name) => outOfRange(name, given[name]));
  const reasons = [
    ...(missing.length > 0 ? [`missing ${missing.join(", ")}`] : []),
    ...(notAllowed.length > 0 ? [`not allowed: ${notAllowed.join(", ")}`] : []),
    ...wrong,
  ];
  if (reasons.length > 0) {
    throw new TransitionError(from, to, missing, notAllowed, reasons.join("; "));
  }
}

const maxima: Partial<Record<QueuePairAttribute, number>> = {
  destQpn: MAX_24_BITS,
  rqPsn: MAX_24_BITS,
  sqPsn: MAX_24_BITS,
  pkeyIndex: 0xffff,
  port: 255,
  maxDestRdAtomic: 255,
  maxRdAtomic: 255,
  minRnrTimer: 31,
  timeout: 31,
  retryCount: 7,
  rnrRetry: 7,
};

function outOfRange(name: QueuePairAttribute, value: unknown): string[] {
  const maximum = maxima[name];
  if (maximum === undefined || typeof value !== "number") return [];
  const fits = Number.isInteger(value) && value >= 0 && value <= maximum;
  return fits ? [] : [`${name} is ${value}, not 0 to ${maximum}`];
}
