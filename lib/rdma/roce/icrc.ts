/**
 * The invariant CRC of RoCEv2 (Annex A17, section A17.3.3; IBTA volume 1, section 7.8.1): CRC-32 over
 * 64 ones, the IP and UDP headers with the fields that change on the way taken as ones, BTH (also
 * with its variant byte as ones), further headers, payload and padding; sent with the lowest byte first.
 *
 * CRC is linear: the CRC of a header that differs in some bits differs by the XOR of what those bits
 * contribute. So the CRC of all that precedes the BTH is that of an empty packet with IP ID 0, plus a
 * term for the length and a term for the IP ID.
 */
import { crc32 } from "node:zlib";
import { MAX_PACKET_BYTES } from "./headers.ts";

const LEADING_ONES = 8;
const IPV4_BYTES = 20;
const IPV6_BYTES = 40;
const UDP_BYTES = 8;
const UDP_PROTOCOL = 17;

/** An address and a port. */
interface UdpAddress {
  /** 4 or 16 octets. */
  readonly address: Uint8Array;
  readonly port: number;
}

/** All before the BTH, for an empty packet with IP ID 0: what RoCEv2 sends has DF set and no options. */
function emptyHeaders(from: UdpAddress, to: UdpAddress): Uint8Array<ArrayBuffer> {
  const v4 = from.address.length === 4;
  const ipBytes = v4 ? IPV4_BYTES : IPV6_BYTES;
  const bytes = new Uint8Array(LEADING_ONES + ipBytes + UDP_BYTES).fill(0xff, 0, LEADING_ONES);
  const view = new DataView(bytes.buffer, LEADING_ONES);
  if (v4) {
    view.setUint32(0, 0x45ff_0000); // version, IHL; type of service masked; length
    view.setUint32(4, 0x0000_4000); // ID; DF
    view.setUint32(8, 0xff00_ffff | UDP_PROTOCOL << 16); // TTL and checksum masked
  } else {
    view.setUint32(0, 0x6fff_ffff); // version; traffic class and flow label masked
    view.setUint32(4, UDP_PROTOCOL << 8 | 0xff); // length; next header; hop limit masked
  }
  const addresses = LEADING_ONES + (v4 ? 12 : 8);
  bytes.set(from.address, addresses);
  bytes.set(to.address, addresses + from.address.length);
  view.setUint16(ipBytes, from.port);
  view.setUint16(ipBytes + 2, to.port);
  view.setUint16(ipBytes + 6, 0xffff); // checksum masked
  return bytes;
}

/** CRC of `length` zero bytes with what `write` sets in them, without the constant part. */
function contribution(length: number, write: (view: DataView) => void): number {
  const bytes = new Uint8Array(LEADING_ONES + length);
  const constant = crc32(bytes);
  write(new DataView(bytes.buffer, LEADING_ONES));
  return (crc32(bytes) ^ constant) >>> 0;
}

/**
 * Terms by bytes of the packet, from the BTH to the ICRC: the lengths in the IP and UDP headers.
 *
 * @param lengthField where the IP header has its length
 * @param counted bytes of the IP header that this length includes
 */
function lengthTerms(
  ipBytes: number,
  lengthField: number,
  counted: number,
): Uint32Array<ArrayBuffer> {
  const ipLength = fieldTerms(ipBytes + UDP_BYTES, lengthField);
  const udpLength = fieldTerms(ipBytes + UDP_BYTES, ipBytes + 4);
  return Uint32Array.from(
    { length: MAX_PACKET_BYTES + 1 },
    (_, packetBytes) =>
      ipLength(counted + UDP_BYTES + packetBytes) ^ udpLength(UDP_BYTES + packetBytes),
  );
}

/** What a 16-bit field of so many bytes of headers contributes, by its value: the sum of what its bits do. */
function fieldTerms(headerBytes: number, offset: number): (value: number) => number {
  const ofBits = Array.from(
    { length: 16 },
    (_, bit) => contribution(headerBytes, (view) => view.setUint16(offset, 1 << bit)),
  );
  return (value) => ofBits.reduce((sum, term, bit) => value >>> bit & 1 ? sum ^ term : sum, 0);
}

/** Segments that one send may be cut into (UDP_MAX_SEGMENTS of linux/udp.h); their IDs count from 0. */
export const MAX_SEGMENTS = 64;

/** By IP version; made by the first queue pair, as it takes some ten milliseconds. */
const knownLengthTerms = new Map<4 | 6, Uint32Array<ArrayBuffer>>();

function lengthTermsOf(version: 4 | 6): Uint32Array<ArrayBuffer> {
  const known = knownLengthTerms.get(version);
  if (known) return known;
  const terms = version === 4
    ? lengthTerms(IPV4_BYTES, 2, IPV4_BYTES)
    : lengthTerms(IPV6_BYTES, 4, 0);
  knownLengthTerms.set(version, terms);
  return terms;
}

const idTerms = Uint32Array.from(
  { length: MAX_SEGMENTS },
  (_, id) => contribution(IPV4_BYTES + UDP_BYTES, (view) => view.setUint16(4, id)),
);

/** What the ICRC of packets from one UDP address to another begins with. */
export class IcrcPrefix {
  readonly #empty: number;
  readonly #lengthTerms: Uint32Array;
  readonly #isIpv4: boolean;

  constructor(from: UdpAddress, to: UdpAddress) {
    this.#isIpv4 = from.address.length === 4;
    this.#empty = crc32(emptyHeaders(from, to));
    this.#lengthTerms = lengthTermsOf(this.#isIpv4 ? 4 : 6);
  }

  /**
   * The ICRC of a packet whose masked BTH byte is all ones.
   *
   * @param covered from the BTH to the padding
   * @param id IP ID, 0 to 63; of no effect over IPv6
   */
  icrc(covered: Uint8Array, id: number): number {
    const prefix = this.#empty ^ this.#lengthTerms[covered.length + 4]!;
    return crc32(covered, (this.#isIpv4 ? prefix ^ idTerms[id]! : prefix) >>> 0);
  }

  /**
   * Whether `received` is the ICRC of a packet whose masked BTH byte is all ones. Over IPv4 it also
   * covers the IP ID, which a UDP socket does not show: any ID that explains the difference will do,
   * so 16 of the 32 bits remain to check. Over IPv6 all 32 do.
   *
   * @param likelyId tried first, 0 to 63
   */
  matches(covered: Uint8Array, likelyId: number, received: number): boolean {
    const difference = (this.icrc(covered, likelyId) ^ received) >>> 0;
    if (difference === 0) return true;
    return this.#isIpv4 && isExplainedByIpId(difference, covered.length);
  }
}

/** Bytes of IP and UDP headers from the IP ID on. */
const FROM_ID = IPV4_BYTES - 4 + UDP_BYTES;

/** By bytes from the ID on: 32 words, what each bit of a difference was before those bytes. */
const undoing = new Map<number, Uint32Array<ArrayBuffer>>();

/** Whether the CRCs of two packets differ only by their IP IDs. */
function isExplainedByIpId(difference: number, coveredBytes: number): boolean {
  const bytes = FROM_ID + coveredBytes;
  let matrix = undoing.get(bytes);
  if (!matrix) undoing.set(bytes, matrix = power(UNDO_BYTE, bytes));
  // The register takes bytes in at its low end: the two of the ID stood in the low half.
  return apply(matrix, difference) >>> 0 <= 0xffff;
}

/** Reflected polynomial of CRC-32 (IEEE 802.3). */
const POLYNOMIAL = 0xedb8_8320;

/** Inverse of one shift: by column, the result for each single bit. */
const UNDO_BIT = Uint32Array.from({ length: 32 }, (_, bit) => {
  const value = (1 << bit) >>> 0;
  // The polynomial has its top bit set, and a shift leaves it clear: it tells whether it was added.
  return (value & 0x8000_0000) !== 0 ? (((value ^ POLYNOMIAL) << 1) | 1) >>> 0 : (value << 1) >>> 0;
});

const UNDO_BYTE = power(UNDO_BIT, 8);

function apply(matrix: Uint32Array<ArrayBuffer>, value: number): number {
  let result = 0;
  for (let bit = 0; bit < 32; bit++) if ((value >>> bit) & 1) result ^= matrix[bit]!;
  return result >>> 0;
}

function multiply(
  left: Uint32Array<ArrayBuffer>,
  right: Uint32Array<ArrayBuffer>,
): Uint32Array<ArrayBuffer> {
  return right.map((column) => apply(left, column));
}

function power(matrix: Uint32Array<ArrayBuffer>, exponent: number): Uint32Array<ArrayBuffer> {
  let result = Uint32Array.from({ length: 32 }, (_, bit) => (1 << bit) >>> 0);
  let square = matrix;
  for (let rest = exponent; rest > 0; rest = Math.floor(rest / 2)) {
    if (rest % 2 === 1) result = multiply(square, result);
    square = multiply(square, square);
  }
  return result;
}
