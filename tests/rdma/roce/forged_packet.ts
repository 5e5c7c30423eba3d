/** Packets that an attacker may make who knows the queue pair, its PSNs and its keys. */
import fc from "fast-check";
import { Destination, Endpoint } from "../../../lib/rdma/roce/endpoint.ts";
import {
  packetBytes,
  Syndrome,
  writeAeth,
  writeAtomicAckEth,
  writeAtomicEth,
  writeBth,
  writeImmediate,
  writeReth,
} from "../../../lib/rdma/roce/headers.ts";
import { ICRC_BYTES, PacketOpcode, Trait, traitsOf } from "../../../lib/rdma/roce/opcode.ts";
import { psnAfter } from "../../../lib/rdma/roce/psn.ts";
import { TransmitBatch } from "../../../lib/rdma/roce/wire.ts";

/** Path MTU of the queue pair under attack. */
export const PATH_MTU = 256;

/** A packet, as drawn. Numbers that name something are places in lists of such things. */
export interface Forgery {
  readonly opcode: number;
  /** Packets before or after the PSN that is awaited. */
  readonly ahead: number;
  readonly ackRequested: boolean;
  readonly payloadBytes: number;
  /** The region whose key and address it names, and bytes from its start. */
  readonly region: number;
  readonly offset: number;
  /** The region whose key it bears, if that is another. */
  readonly key: number;
  /** Bytes of the message; -1 for those of the payload. */
  readonly dmaLength: number;
  readonly syndrome: number;
  /** Bits that are changed before the ICRC is made. */
  readonly changedBits: readonly number[];
  /** Bytes cut off before the ICRC. */
  readonly cut: number;
}

/** A packet that is in order: a SEND of 8 bytes, or as another opcode with the peer's key and an acknowledgement. */
export const plain: Forgery = {
  opcode: PacketOpcode.SEND_ONLY,
  ahead: 0,
  ackRequested: true,
  payloadBytes: 8,
  region: 0,
  offset: 0,
  key: -1,
  dmaLength: -1,
  syndrome: Syndrome.ACK,
  changedBits: [],
  cut: 0,
};

/** What a forger knows. */
export interface Knowledge {
  readonly qpn: number;
  /** PSNs that are awaited next: of a request, and of an acknowledgement. */
  readonly requestPsn: number;
  readonly acknowledgedPsn: number;
  readonly regions: readonly { readonly address: number; readonly rkey: number }[];
}

const sizes = fc.constantFrom(0, 1, 4, 8, 255, 256, 257, 512, 4096);

/** Any packets, many of which are as the transport wants them in most of their fields. */
export const forgeries: fc.Arbitrary<Forgery> = fc.record({
  opcode: fc.oneof(
    { arbitrary: fc.constantFrom(...Object.values(PacketOpcode)), weight: 9 },
    { arbitrary: fc.nat(255), weight: 1 },
  ),
  ahead: fc.oneof(
    { arbitrary: fc.constant(0), weight: 5 },
    { arbitrary: fc.integer({ min: -8, max: 8 }), weight: 3 },
    { arbitrary: fc.nat(0xff_ffff), weight: 1 },
  ),
  ackRequested: fc.boolean(),
  payloadBytes: fc.oneof(sizes, fc.nat(300)),
  region: fc.nat(3),
  offset: fc.oneof(
    { arbitrary: fc.constant(0), weight: 3 },
    { arbitrary: fc.integer({ min: -300, max: 1300 }), weight: 3 },
    { arbitrary: fc.constantFrom(-(2 ** 46), 2 ** 52, 8, 744, 900, 992, 1000), weight: 2 },
  ),
  key: fc.oneof({ arbitrary: fc.constant(-1), weight: 5 }, { arbitrary: fc.nat(3), weight: 1 }),
  dmaLength: fc.oneof(fc.constant(-1), sizes, fc.nat(1100), fc.constantFrom(2 ** 31, 2 ** 32 - 1)),
  syndrome: fc.oneof(fc.constantFrom(0x1f, 0x20, 0x60, 0x61, 0x62, 0x63), fc.nat(255)),
  changedBits: fc.oneof(
    { arbitrary: fc.constant([]), weight: 4 },
    { arbitrary: fc.array(fc.nat(8 * 64), { maxLength: 3 }), weight: 1 },
  ),
  cut: fc.oneof({ arbitrary: fc.constant(0), weight: 6 }, { arbitrary: fc.nat(64), weight: 1 }),
});

/** Makes packets from one endpoint to another. */
export class Forger implements Disposable {
  readonly #batch = new TransmitBatch();
  readonly #destination: Destination;

  constructor(from: Endpoint, to: Endpoint) {
    this.#destination = new Destination(from, to);
  }

  /** A packet with the right ICRC for what it has become. */
  make(forgery: Forgery, knowledge: Knowledge): Uint8Array<ArrayBuffer> {
    const { opcode, payloadBytes, ahead, ackRequested, changedBits, cut } = forgery;
    const batch = this.#batch;
    batch.clear();
    const traits = traitsOf(opcode);
    const { requestPsn, acknowledgedPsn, qpn } = knowledge;
    const psn = psnAfter(traits & Trait.REQUEST ? requestPsn : acknowledgedPsn, ahead);
    const payload = traits & Trait.PAYLOAD ? payloadBytes : 0;
    const bytes = Math.max(16, packetBytes(opcode, payload) - cut);
    const at = batch.begin(this.#destination, bytes);
    // Stands for itself wherever it gets to.
    batch.bytes.fill(0xa5, at, at + packetBytes(opcode, payload));
    writeBth(batch.view, at, opcode, payload, qpn, psn, ackRequested, false);
    writeExtended(batch.view, at, forgery, knowledge);
    for (const bit of changedBits) {
      const changed = (bit >> 3) % (bytes - ICRC_BYTES);
      // The queue pair's number stays, or the packet would be nobody's.
      if (changed < 4 || changed > 7) batch.bytes[at + changed]! ^= 1 << (bit & 7);
    }
    batch.end(at, bytes);
    return batch.bytes.slice(at, at + bytes);
  }

  [Symbol.dispose](): void {
    this.#batch[Symbol.dispose]();
  }
}

function writeExtended(
  view: DataView,
  at: number,
  { opcode, region, offset, key, dmaLength, payloadBytes, syndrome }: Forgery,
  { regions }: Knowledge,
): void {
  const traits = traitsOf(opcode);
  const address = Math.max(0, regions[region % regions.length]!.address + offset);
  const { rkey } = regions[(key < 0 ? region : key) % regions.length]!;
  if (traits & Trait.RETH) {
    writeReth(view, at, address, rkey, dmaLength < 0 ? payloadBytes : dmaLength);
  }
  if (traits & Trait.ATOMIC_ETH) writeAtomicEth(view, at, address, rkey, 1, 2, 3, 4);
  if (traits & Trait.AETH) writeAeth(view, at, syndrome, 1);
  if (traits & Trait.ATOMIC_ACK_ETH) writeAtomicAckEth(view, at, 5, 6);
  if (traits & Trait.IMMEDIATE) writeImmediate(view, at, opcode, 7);
}
