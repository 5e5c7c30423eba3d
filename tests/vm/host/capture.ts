/** What crossed a wire between two guests, as tshark reads it from the capture. */
import { decodeHex } from "@std/encoding/hex";
import { ROCE_UDP_PORT } from "../../../lib/control/path.ts";

/** A RoCEv2 packet. */
export interface RocePacket {
  /** IPv4 addresses. */
  readonly source: string;
  readonly destination: string;
  readonly opcode: number;
  readonly destinationQpn: number;
  readonly psn: number;
  /** Bytes that a READ or WRITE asks for; 0 where there is no RETH. */
  readonly dmaLength: number;
  /** What lies between the transport headers and the invariant CRC. */
  readonly payload: Uint8Array<ArrayBuffer>;
}

/** A message of the connection manager (IBTA volume 1, section 12.6), on queue pair 1. */
export interface ManagementMessage {
  readonly kind: "REQ" | "MRA" | "REP" | "RTU" | "DREQ" | "DREP";
  /** Zero in those that have no such field. */
  readonly localQpn: number;
  readonly startingPsn: number;
  /** Without the addresses that librdmacm puts before it in a REQ. */
  readonly privateData: Uint8Array<ArrayBuffer>;
  /** All of it, without transport headers. */
  readonly datagram: Uint8Array<ArrayBuffer>;
}

/** Bytes that one side of a TCP connection sent, in the order of both. */
export interface Chunk {
  readonly from: "client" | "server";
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** A TCP connection that carried anything: as it was on the wire, and decrypted. */
export interface Connection {
  readonly wire: Chunk[];
  /** Nothing, if it is not TLS of which the keys are known. */
  readonly plain: Chunk[];
}

/** ICMP quotes packets for which it found no program, such as an answer to one that has ended. */
const NO_QUOTATION = "!icmp";

const BTH_BYTES = 12;
const ICRC_BYTES = 4;
/** Transport headers behind the BTH, some of which a packet has (IBTA volume 1, section 9.3). */
const EXTENDED_HEADERS = ["deth", "reth", "atomiceth", "aeth", "atomicacketh", "immdt", "ieth"];

/** Destination ports of all UDP packets. */
export async function udpPorts(capture: string): Promise<Set<number>> {
  const rows = await fields(capture, `udp && ${NO_QUOTATION}`, ["udp.dstport"]);
  return new Set(rows.map(([port]) => Number(port)));
}

/** All RoCEv2 packets, in the order of the wire. */
export async function rocePackets(capture: string): Promise<RocePacket[]> {
  const rows = await fields(capture, `udp.dstport == ${ROCE_UDP_PORT} && ${NO_QUOTATION}`, [
    ...["ip.src", "ip.dst", "infiniband.bth.opcode", "infiniband.bth.destqp", "infiniband.bth.psn"],
    ...["infiniband.reth.dmalen", "udp.payload"],
    ...EXTENDED_HEADERS.map((header) => `infiniband.${header}`),
  ]);
  return rows.map(([source, destination, opcode, qpn, psn, dmaLength, payload, ...headers]) => {
    const headerBytes = BTH_BYTES + headers.join("").length / 2;
    return {
      source: source!,
      destination: destination!,
      opcode: Number(opcode),
      destinationQpn: Number(qpn),
      psn: Number(psn),
      dmaLength: Number(dmaLength),
      payload: decodeHex(payload!).subarray(headerBytes, -ICRC_BYTES),
    };
  });
}

/** Bytes of a management datagram (IBTA volume 1, section 13.4.2). */
const MAD_BYTES = 256;

/** The connection manager's messages by attribute number, with the bytes of private data at the end. */
const MANAGEMENT_MESSAGES: Record<number, [ManagementMessage["kind"], number]> = {
  // Of its 92 bytes librdmacm uses 36 for addresses.
  0x10: ["REQ", 56],
  0x11: ["MRA", 222],
  0x13: ["REP", 196],
  0x14: ["RTU", 224],
  0x15: ["DREQ", 220],
  0x16: ["DREP", 224],
};

/** All messages of the connection manager, in the order of the wire. */
export async function managementMessages(capture: string): Promise<ManagementMessage[]> {
  const rows = await fields(capture, "infiniband.mad", [
    ...["infiniband.mad.attributeid", "udp.payload"],
    ...["infiniband.cm.req.localqpn", "infiniband.cm.rep.localqpn"],
    ...["infiniband.cm.req.startpsn", "infiniband.cm.rep.startpsn"],
  ]);
  return rows.map(([attribute, payload, reqQpn, repQpn, reqPsn, repPsn]) => {
    const known = MANAGEMENT_MESSAGES[Number(attribute)];
    if (known === undefined) throw new Error(`management datagram of attribute ${attribute}`);
    const [kind, privateBytes] = known;
    const datagram = decodeHex(payload!).slice(-MAD_BYTES - ICRC_BYTES, -ICRC_BYTES);
    return {
      kind,
      localQpn: Number(reqQpn || repQpn),
      startingPsn: Number(reqPsn || repPsn),
      privateData: datagram.subarray(-privateBytes),
      datagram,
    };
  });
}

/**
 * All TCP connections that carried anything.
 *
 * @param keyLog file with the keys of their TLS sessions
 * @param ports the servers'
 */
export async function connections(
  capture: string,
  keyLog: string,
  ports: readonly number[],
): Promise<Connection[]> {
  const rows = await fields(capture, "tcp.len > 0", ["tcp.stream"]);
  const streams = [...new Set(rows.map(([stream]) => stream!))];
  const options = [
    ...["-o", `tls.keylog_file:${keyLog}`],
    ...ports.flatMap((port) => ["-d", `tcp.port==${port},tls`]),
    ...streams.flatMap((stream) =>
      ["tcp", "tls"].flatMap((protocol) => ["-z", `follow,${protocol},raw,${stream}`])
    ),
  ];
  // All at once: each run reads the whole capture.
  const accounts = (await tshark(capture, ["-q", ...options])).split(/^Follow: /m);
  const follow = (protocol: "tcp" | "tls", stream: string) => {
    const heading = `${protocol},raw\nFilter: tcp.stream eq ${stream}\n`;
    return chunks(accounts.find((account) => account.startsWith(heading))!, ports);
  };
  return streams.map((stream) => ({
    wire: follow("tcp", stream),
    plain: follow("tls", stream),
  }));
}

/** Reads tshark's account of a stream: a line of hexadecimal digits a chunk, node 1's with a tab. */
function chunks(account: string, ports: readonly number[]): Chunk[] {
  // Node 0 is the one that was first: of the decrypted data that may be the server.
  const nodes = new RegExp(`^Node 0: \\S*:(${ports.join("|")})$`, "m").test(account)
    ? ["server", "client"] as const
    : ["client", "server"] as const;
  return [...account.matchAll(/^(\t?)([0-9a-f]+)$/gm)].map(([, tab, digits]) => ({
    from: nodes[tab === "" ? 0 : 1],
    bytes: decodeHex(digits!),
  }));
}

/** Fields of the packets that a filter lets through, as text; empty where a packet has none. */
export async function fields(
  capture: string,
  filter: string,
  names: readonly string[],
): Promise<string[][]> {
  const wanted = names.flatMap((name) => ["-e", name]);
  const output = await tshark(capture, ["-Y", filter, "-T", "fields", ...wanted]);
  return output.split("\n").filter((line) => line !== "").map((line) => line.split("\t"));
}

async function tshark(capture: string, args: readonly string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command("tshark", {
    args: ["-n", "-r", capture, ...args],
  }).output();
  if (!success) throw new Error(`tshark: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout);
}
