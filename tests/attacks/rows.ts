/** The attacks that Verbseal must withstand: each row has a test here that mounts it, as a test checks. */

/** By section of RFC 5042. */
const rfc5042 = [
  ["5.1.1", "impersonation"],
  ["5.1.2", "stream hijacking: packets forged into a live connection"],
  ["5.1.3", "man in the middle"],
  ["5.2", "tampering with payload on the wire"],
  ["5.3", "eavesdropping"],
  ["6.1.1", "using one stream's rkey on another"],
  ["6.2.1", "buffer overrun by WRITE or READ response"],
  ["6.2.2", "changing a buffer after it was handed over"],
  ["6.2.3", "several rkeys for one buffer"],
  ["6.3.1", "probing memory outside a buffer"],
  ["6.3.2", "READ of stale data"],
  ["6.3.3", "access after the transfer is over"],
  ["6.3.4", "valid rkey, unintended data"],
  ["6.3.5", "READ into a buffer that a peer may WRITE"],
  ["6.3.6", "several rkeys for one buffer"],
  ["6.4.1", "exhausting QPs, CQs, MRs, locked memory"],
  ["6.4.2", "idle sessions that hold resources"],
  ["6.4.3.1", "draining a shared receive queue"],
  ["6.4.3.2", "overflowing a completion queue"],
  ["6.4.3.3", "flooding with READ requests"],
  ["6.4.4", "forcing slow paths"],
  ["6.4.5", "remote invalidation of a shared rkey"],
  ["6.4.6", "overflowing a completion queue"],
  ["6.5", "elevation of privilege"],
  ["2.2.7", "flooding the asynchronous event queue"],
  ["7", "local peers"],
] as const;

/** By number in ReDMArk (USENIX Security 2021): weaknesses V, attacks A. */
const redmark = [
  ["V1", "memory protection keys are predictable"],
  ["V2", "static state of the key generator"],
  ["V3", "one key generator for all clients"],
  ["V4", "regions are allocated consecutively"],
  ["V5", "consecutive QP numbers"],
  ["V6", "fixed starting PSN"],
  ["V7", "attacks go unnoticed"],
  ["V8", "no encryption or authentication in RoCE"],
  ["V9", "one protection domain for all clients"],
  ["V10", "on-demand paging is observable"],
  ["A1", "packet injection by impersonation"],
  ["A2", "driving a QP to the error state"],
  ["A3", "unauthorised memory access"],
  ["A4", "exhaustion by queue pair allocation"],
  ["A5", "slowing others down"],
  ["A6", "RDMA as a means to other attacks"],
] as const;

export const rows = [...rfc5042, ...redmark];

export type Row = typeof rows[number][0];
