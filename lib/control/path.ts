import ipaddr from "ipaddr.js";
import { ProtocolError, RdmaError } from "../errors.ts";
import type { Provider, QueuePairNumbers } from "./messages.ts";

/** UDP port of RoCEv2 (IBTA Annex A17): NICs and rdma_rxe send to it and to no other. */
export const ROCE_UDP_PORT = 4791;

/** What both sides agreed on for the path between their queue pairs. */
export interface AgreedPath {
  /** The smaller of both path MTUs. */
  readonly mtu: QueuePairNumbers["mtu"];
  /** READs and atomics outstanding at most, to the peer and from the peer. */
  readonly maxRdAtomic: number;
  readonly maxDestRdAtomic: number;
}

/** One end of a path: who moves its packets, and what it says of its queue pair. */
export interface PathEnd {
  readonly provider: Provider;
  readonly numbers: QueuePairNumbers;
}

/**
 * The path between two ends. Both sides come to the same finding, in the same words.
 *
 * @throws ProtocolError when an end says what its provider cannot be
 * @throws RdmaError when packets of one end cannot reach the other
 */
export function agreePath(local: PathEnd, remote: PathEnd): AgreedPath {
  const ends = [local, remote];
  for (const end of ends) checkEnd(end);
  checkSame("gid_type", "GIDs of", ends.map(({ numbers }) => numbers.gidType));
  if (local.numbers.gidType === "RoCE v2") {
    checkSame("gid_family", "GIDs over", ends.map(({ numbers }) => familyOf(numbers.gid)));
    // A client may name any address. What a host offers to itself alone is not for others to be sent to.
    checkSame("gid_scope", "GIDs of", ends.map(({ numbers }) => scopeOf(numbers.gid)));
  }
  if (local.provider !== remote.provider) {
    for (const { numbers } of ends) checkStandardPort(numbers.gid, numbers.udpPort);
  }
  return {
    mtu: Math.min(local.numbers.mtu, remote.numbers.mtu) as QueuePairNumbers["mtu"],
    maxRdAtomic: Math.min(local.numbers.maxRdAtomic, remote.numbers.maxDestRdAtomic),
    maxDestRdAtomic: Math.min(local.numbers.maxDestRdAtomic, remote.numbers.maxRdAtomic),
  };
}

/**
 * Checks that an RDMA device can send to the embedded provider at an address.
 *
 * @param udpPort of the embedded provider; undefined for a device
 * @throws RdmaError when it is another than the one that devices send to
 */
export function checkStandardPort(gid: string, udpPort: number | undefined): void {
  if (udpPort === undefined || udpPort === ROCE_UDP_PORT) return;
  const address = ipaddr.process(gid).toString();
  throw new RdmaError(
    "udp_port_taken",
    `the embedded provider on ${address} has UDP port ${udpPort}, and RDMA devices send to ` +
      `${ROCE_UDP_PORT} only`,
    `another program, or rdma_rxe, has port ${ROCE_UDP_PORT} of that address: stop it, or use ` +
      "another address with --device roce:ADDRESS",
  );
}

function checkEnd({ provider, numbers }: PathEnd): void {
  const embedded = provider === "roce";
  if (embedded !== (numbers.udpPort !== undefined)) {
    throw new ProtocolError(
      "udp_port",
      embedded
        ? "the embedded provider has not told its UDP port"
        : "an RDMA device cannot choose its UDP port",
    );
  }
  if (embedded && numbers.gidType !== "RoCE v2") {
    throw new ProtocolError(
      "gid_type",
      `the embedded provider has GIDs of RoCE v2, not of ${numbers.gidType}`,
    );
  }
}

function checkSame(code: string, what: string, values: string[]): void {
  if (new Set(values).size === 1) return;
  throw new RdmaError(
    code,
    `${what} ${values.sort().join(" and ")} do not reach each other`,
    "let both sides use ports of one network, with --device",
  );
}

function scopeOf(gid: string): "loopback" | "networks" {
  return ipaddr.process(gid).range() === "loopback" ? "loopback" : "networks";
}

function familyOf(gid: string): "IPv4" | "IPv6" {
  return ipaddr.IPv6.parse(gid).isIPv4MappedAddress() ? "IPv4" : "IPv6";
}
