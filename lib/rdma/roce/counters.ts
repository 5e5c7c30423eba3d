/** What a port counts, in the names of the kernel's port counters where it has one (`rdma statistic`, hw_counters). */
export const Counter = {
  RX_PACKETS: 0,
  TX_PACKETS: 1,
  /** Dropped: shorter than their headers, or of an opcode that does not exist. */
  MALFORMED_PACKETS: 2,
  /** Dropped: the ICRC does not fit. */
  ICRC_ERRORS: 3,
  /** Dropped: for a queue pair that is not there or takes no packets. */
  UNKNOWN_QUEUE_PAIR: 4,
  /** Dropped: from another address than the peer's. */
  WRONG_SOURCE: 5,
  /** Dropped: of a partition other than the default. */
  PKEY_VIOLATIONS: 6,
  /** Requests that came after one that is missing. */
  OUT_OF_SEQUENCE: 7,
  DUPLICATE_REQUEST: 8,
  /** Requests for which no receive was posted. */
  RNR_NAK_SENT: 9,
  /** Requests beyond a region, its access flags or its protection domain. */
  RESP_REMOTE_ACCESS_ERRORS: 10,
  /** Requests that break the rules of the transport. */
  RESP_INVALID_REQUESTS: 11,
  /** NAKs received that ask to send again from a PSN. */
  PACKET_SEQ_ERR: 12,
  /** Responses that came after one that is missing. */
  IMPLIED_NAK_SEQ_ERR: 13,
  RNR_NAK_RETRY_ERR: 14,
  /** Acknowledgements that did not come in time. */
  LOCAL_ACK_TIMEOUT_ERR: 15,
  REQ_REMOTE_ACCESS_ERRORS: 16,
  REQ_REMOTE_INVALID_REQUEST: 17,
  /** Queue pairs that gave up after all retries. */
  RETRY_EXCEEDED: 18,
} as const;

export type Counter = typeof Counter[keyof typeof Counter];

/** Names in the order of their values. */
export const COUNTER_NAMES: readonly string[] = Object.keys(Counter).map((name) =>
  name.toLowerCase()
);

/** Counters of one port. */
export class Counters {
  /** @param values one number per name, where others may see them */
  constructor(readonly values = new Float64Array(COUNTER_NAMES.length)) {}

  count(counter: Counter, by = 1): void {
    this.values[counter]! += by;
  }

  /** Values by name. */
  toRecord(): Record<string, number> {
    return Object.fromEntries(COUNTER_NAMES.map((name, index) => [name, this.values[index] ?? 0]));
  }
}
