/**
 * The headers of a RoCEv2 packet, from the BTH on: what UDP carries (IBTA volume 1, section 9.2 and
 * Annex A17). All fields are big-endian. Decoding fills one {@linkcode Packet} again and again, and
 * encoding writes to the wire buffer: neither allocates.
 */
import {
  AETH_BYTES,
  ATOMIC_ACK_ETH_BYTES,
  BTH_BYTES,
  headerBytesOf,
  ICRC_BYTES,
  Trait,
  traitsOf,
} from "./opcode.ts";

/** The only partition that RoCE has by default: full membership (IBTA volume 1, section 10.9.1.1). */
export const DEFAULT_PKEY = 0xffff;

/** Bytes of the longest packet: the ATOMIC_ETH is shorter than RETH, immediate and a payload of 4096. */
export const MAX_PACKET_BYTES = 12 + 16 + 4 + 4096 + 4;

/** Byte of the BTH that the ICRC takes as all ones: FECN, BECN and reserved bits. */
const MASKED_BYTE = 4;

const low24 = 0xff_ffff;
const high = 0x1_0000_0000;

/** One received packet, decoded. Fields of headers that the opcode does not have keep their former values. */
export class Packet {
  opcode = 0;
  /** {@linkcode Trait} bits of the opcode. */
  traits = 0;
  solicited = false;
  pkey = 0;
  destQpn = 0;
  ackRequested = false;
  psn = 0;
  /** Offset of the payload in the wire buffer, and its bytes without padding. */
  payload = 0;
  payloadBytes = 0;
  /** RETH and AtomicETH. Addresses from 2^53 on are -1: no memory of this process is there. */
  address = 0;
  rkey = 0;
  /** RETH: bytes of the whole message. */
  dmaLength = 0;
  /** AtomicETH: what to swap in or to add, and what to compare with; 32 bits each. */
  swapHigh = 0;
  swapLow = 0;
  compareHigh = 0;
  compareLow = 0;
  /** AETH. */
  syndrome = 0;
  msn = 0;
  /** AtomicAckETH: the former value. */
  originalHigh = 0;
  originalLow = 0;
  immediate = 0;

  /**
   * Reads the headers of the packet at `at`. False when it is malformed: shorter than its headers or
   * longer than any packet, of an opcode or a header version that does not exist, or padded without
   * need.
   */
  decode(view: DataView, at: number, length: number): boolean {
    if (length < BTH_BYTES + ICRC_BYTES || length > MAX_PACKET_BYTES) return false;
    const first = view.getUint32(at);
    const opcode = this.opcode = first >>> 24;
    const traits = this.traits = traitsOf(opcode);
    const headers = headerBytesOf(opcode);
    const pad = (first >>> 20) & 3;
    const version = (first >>> 16) & 0xf;
    const payloadBytes = length - headers - ICRC_BYTES - pad;
    if (traits === 0 || version !== 0 || payloadBytes < 0) return false;
    // The payload and its padding fill whole words (IBTA volume 1, section 9.2.3).
    if ((payloadBytes + pad) % 4 !== 0) return false;
    if ((traits & Trait.PAYLOAD) === 0 && payloadBytes + pad !== 0) return false;
    this.solicited = (first & 0x80_0000) !== 0;
    this.pkey = first & 0xffff;
    this.destQpn = view.getUint32(at + 4) & low24;
    const third = view.getUint32(at + 8);
    this.ackRequested = third >>> 31 === 1;
    this.psn = third & low24;
    this.payload = at + headers;
    this.payloadBytes = payloadBytes;
    if (headers > BTH_BYTES) this.#decodeExtended(view, at + BTH_BYTES, traits);
    return true;
  }

  #decodeExtended(view: DataView, start: number, traits: number): void {
    let at = start;
    if (traits & (Trait.RETH | Trait.ATOMIC_ETH)) {
      const upper = view.getUint32(at);
      this.address = upper < 0x20_0000 ? upper * high + view.getUint32(at + 4) : -1;
      this.rkey = view.getUint32(at + 8);
      if (traits & Trait.RETH) {
        this.dmaLength = view.getUint32(at + 12);
        at += 16;
      } else {
        this.swapHigh = view.getUint32(at + 12);
        this.swapLow = view.getUint32(at + 16);
        this.compareHigh = view.getUint32(at + 20);
        this.compareLow = view.getUint32(at + 24);
        at += 28;
      }
    }
    if (traits & Trait.AETH) {
      const word = view.getUint32(at);
      this.syndrome = word >>> 24;
      this.msn = word & low24;
      at += AETH_BYTES;
    }
    if (traits & Trait.ATOMIC_ACK_ETH) {
      this.originalHigh = view.getUint32(at);
      this.originalLow = view.getUint32(at + 4);
      at += ATOMIC_ACK_ETH_BYTES;
    }
    if (traits & Trait.IMMEDIATE) this.immediate = view.getUint32(at);
  }
}

/** Bytes that fill a payload up to whole words. */
export function padBytes(payloadBytes: number): number {
  return -payloadBytes & 3;
}

/** Bytes of a packet on UDP: headers, payload, padding and ICRC. */
export function packetBytes(opcode: number, payloadBytes: number): number {
  return headerBytesOf(opcode) + payloadBytes + padBytes(payloadBytes) + ICRC_BYTES;
}

/**
 * Writes a BTH. The byte that the ICRC masks is written as all ones, to be cleared by
 * {@linkcode unmaskBth} when the ICRC is made. The M bit says that path migration has been done, as
 * it is where there is none (IBTA volume 1, section 17.2.8).
 */
export function writeBth(
  view: DataView,
  at: number,
  opcode: number,
  payloadBytes: number,
  destQpn: number,
  psn: number,
  ackRequested: boolean,
  solicited: boolean,
): void {
  const flags = (solicited ? 0xc0 : 0x40) | (padBytes(payloadBytes) << 4);
  view.setUint32(at, (opcode << 24) | (flags << 16) | DEFAULT_PKEY);
  view.setUint32(at + 4, 0xff00_0000 | destQpn);
  view.setUint32(at + 8, (ackRequested ? 0x8000_0000 : 0) | psn);
}

/** Makes the masked byte of a BTH what goes out: no congestion seen, reserved bits 0. */
export function unmaskBth(view: DataView, at: number): void {
  view.setUint8(at + MASKED_BYTE, 0);
}

/** Makes the masked byte of a received BTH what the ICRC covers. */
export function maskBth(view: DataView, at: number): void {
  view.setUint8(at + MASKED_BYTE, 0xff);
}

/** Writes a RETH after the BTH. */
export function writeReth(
  view: DataView,
  bth: number,
  address: number,
  rkey: number,
  dmaLength: number,
): void {
  writeAddress(view, bth + BTH_BYTES, address);
  view.setUint32(bth + 20, rkey);
  view.setUint32(bth + 24, dmaLength);
}

/** Writes an AtomicETH after the BTH. */
export function writeAtomicEth(
  view: DataView,
  bth: number,
  address: number,
  rkey: number,
  swapHigh: number,
  swapLow: number,
  compareHigh: number,
  compareLow: number,
): void {
  writeAddress(view, bth + BTH_BYTES, address);
  view.setUint32(bth + 20, rkey);
  view.setUint32(bth + 24, swapHigh);
  view.setUint32(bth + 28, swapLow);
  view.setUint32(bth + 32, compareHigh);
  view.setUint32(bth + 36, compareLow);
}

/** Writes an AETH after the BTH. */
export function writeAeth(view: DataView, bth: number, syndrome: number, msn: number): void {
  view.setUint32(bth + BTH_BYTES, (syndrome << 24) | msn);
}

/** Writes an AtomicAckETH after BTH and AETH. */
export function writeAtomicAckEth(
  view: DataView,
  bth: number,
  originalHigh: number,
  originalLow: number,
): void {
  view.setUint32(bth + 16, originalHigh);
  view.setUint32(bth + 20, originalLow);
}

/** Writes immediate data, the last of the headers of `opcode`. */
export function writeImmediate(view: DataView, bth: number, opcode: number, value: number): void {
  view.setUint32(bth + headerBytesOf(opcode) - 4, value);
}

function writeAddress(view: DataView, at: number, address: number): void {
  view.setUint32(at, address / high);
  view.setUint32(at + 4, address);
}

/** AETH syndromes (IBTA volume 1, section 9.7.5.2): the upper three bits are the kind, the lower five its value. */
export const Syndrome = {
  /** Acknowledgement without end-to-end credits. */
  ACK: 0x1f,
  RNR_NAK: 0x20,
  NAK: 0x60,
} as const;

/** What the upper bits of a syndrome say. */
export const SYNDROME_KIND_MASK = 0xe0;

/** NAK codes, the lower five bits. */
export const NakCode = {
  PSN_SEQUENCE_ERROR: 0,
  INVALID_REQUEST: 1,
  REMOTE_ACCESS_ERROR: 2,
  REMOTE_OPERATIONAL_ERROR: 3,
} as const;

/** Milliseconds by RNR timer code (IBTA volume 1, table 45). */
export const RNR_TIMER_MS = [
  ...[655.36, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.16, 0.24, 0.32, 0.48, 0.64, 0.96, 1.28],
  ...[1.92, 2.56, 3.84, 5.12, 7.68, 10.24, 15.36, 20.48, 30.72, 40.96, 61.44, 81.92, 122.88],
  ...[163.84, 245.76, 327.68, 491.52],
] as const;
