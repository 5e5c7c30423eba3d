import { assert, assertEquals } from "@std/assert";
import { libc } from "../../../ffi/libc.ts";
import { Destination, Endpoint } from "../../../lib/rdma/roce/endpoint.ts";
import {
  Packet,
  packetBytes,
  writeAeth,
  writeAtomicAckEth,
  writeAtomicEth,
  writeBth,
  writeImmediate,
  writeReth,
} from "../../../lib/rdma/roce/headers.ts";
import { headerBytesOf, ICRC_BYTES, PacketOpcode } from "../../../lib/rdma/roce/opcode.ts";
import { TransmitBatch } from "../../../lib/rdma/roce/wire.ts";
import {
  datagramOf,
  type Fixture,
  fixtures,
  icrcIn,
  IP_VERSIONS,
  referenceIcrc,
} from "./fixtures.ts";

// Loaded once for the process: Deno's sanitizers would count it for the test that is first.
libc();

/** What an acknowledgement can say: ACK, RNR NAK with timer code 12, and the NAK codes of RC. */
const SYNDROMES = [0x1f, 0x2c, 0x60, 0x61, 0x62, 0x63];

for (const version of IP_VERSIONS) {
  const packets = fixtures(version);

  Deno.test(`the packets of rdma_rxe over ${version} have all opcodes, syndromes and paddings`, () => {
    assertEquals(distinct(packets.map(({ opcode }) => opcode)), Object.values(PacketOpcode));
    assertEquals(distinct(packets.flatMap(({ aeth }) => aeth?.syndrome ?? [])), SYNDROMES);
    assertEquals(distinct(packets.map(({ padBytes }) => padBytes)), [0, 1, 2, 3]);
  });

  Deno.test(`each packet of rdma_rxe over ${version} is decoded to what tshark reads in it`, async (t) => {
    for (const fixture of packets) {
      await t.step(nameOf(fixture), () => {
        const { bytes } = datagramOf(fixture);
        const packet = new Packet();
        assert(packet.decode(new DataView(bytes.buffer), 0, bytes.length));
        assertEquals(decoded(packet, fixture), expected(fixture));
        assertEquals(packet.payload, headerBytesOf(fixture.opcode));
      });
    }
  });

  Deno.test(`each packet of rdma_rxe over ${version} is encoded to the same bytes, and its ICRC too`, async (t) => {
    for (const fixture of packets) {
      await t.step(nameOf(fixture), () => {
        const { bytes, id } = datagramOf(fixture);
        const encoded = encode(fixture);
        assertEquals(encoded.subarray(0, -ICRC_BYTES), bytes.subarray(0, -ICRC_BYTES));
        // rdma_rxe counts IP IDs up, and a first segment of ours has 0: it differs in what the ID adds.
        assertEquals(icrcIn(bytes), referenceIcrc(fixture, id));
        assertEquals(icrcIn(encoded), referenceIcrc(fixture, 0));
      });
    }
  });
}

/** Writes a packet as the transport does. */
function encode(fixture: Fixture): Uint8Array<ArrayBuffer> {
  const { opcode, payloadBytes, destQpn, psn, ackRequested, solicited } = fixture;
  const { from, to, bytes } = datagramOf(fixture);
  const destination = new Destination(
    new Endpoint(from.address, from.port),
    new Endpoint(to.address, to.port),
  );
  using batch = new TransmitBatch();
  const length = packetBytes(opcode, payloadBytes);
  const at = batch.begin(destination, length);
  const { view } = batch;
  writeBth(view, at, opcode, payloadBytes, destQpn, psn, ackRequested, solicited);
  // rdma_rxe leaves the M bit clear, though it has no path migration either.
  assertEquals(fixture.migrated, false);
  view.setUint8(at + 1, view.getUint8(at + 1) & ~0x40);
  writeExtended(view, at, fixture);
  const payload = headerBytesOf(opcode);
  batch.bytes.set(bytes.subarray(payload, payload + payloadBytes), at + payload);
  batch.end(at, length);
  return batch.bytes.slice(at, at + length);
}

function writeExtended(
  view: DataView,
  at: number,
  { opcode, reth, atomicEth, aeth, atomicAckEth, immediate }: Fixture,
): void {
  if (reth) writeReth(view, at, Number(reth.address), reth.rkey, reth.dmaLength);
  if (atomicEth) {
    const { address, rkey, swap, compare } = atomicEth;
    writeAtomicEth(view, at, Number(address), rkey, ...halves(swap), ...halves(compare));
  }
  if (aeth) writeAeth(view, at, aeth.syndrome, aeth.msn);
  if (atomicAckEth) writeAtomicAckEth(view, at, ...halves(atomicAckEth.original));
  if (immediate !== undefined) writeImmediate(view, at, opcode, immediate);
}

/** The upper and the lower 32 bits of a number in text. */
function halves(number: string): [number, number] {
  return [Number(BigInt(number) >> 32n), Number(BigInt(number) & 0xffff_ffffn)];
}

/** What a fixture says, in the names of {@linkcode Packet}. */
function expected(fixture: Fixture): Record<string, unknown> {
  const { reth, atomicEth, aeth, atomicAckEth, immediate, ...rest } = fixture;
  const { ip: _, migrated: __, padBytes: ___, ...bth } = rest;
  const [swapHigh, swapLow] = halves(atomicEth?.swap ?? "0");
  const [compareHigh, compareLow] = halves(atomicEth?.compare ?? "0");
  const [originalHigh, originalLow] = halves(atomicAckEth?.original ?? "0");
  return {
    ...bth,
    ...(reth && { ...reth, address: Number(reth.address) }),
    ...(atomicEth && {
      address: Number(atomicEth.address),
      rkey: atomicEth.rkey,
      ...{ swapHigh, swapLow, compareHigh, compareLow },
    }),
    ...aeth,
    ...(atomicAckEth && { originalHigh, originalLow }),
    ...(immediate !== undefined && { immediate }),
  };
}

/** The fields of a packet that a fixture speaks of. */
function decoded(packet: Packet, fixture: Fixture): Record<string, unknown> {
  const fields = Object.keys(expected(fixture)) as (keyof Packet)[];
  return Object.fromEntries(fields.map((field) => [field, packet[field]]));
}

function nameOf({ opcode, destQpn, psn }: Fixture): string {
  const [name] = Object.entries(PacketOpcode).find(([, value]) => value === opcode) ?? [];
  return `${name} to queue pair ${destQpn}, PSN ${psn}`;
}

function distinct(numbers: number[]): number[] {
  return [...new Set(numbers)].sort((a, b) => a - b);
}
