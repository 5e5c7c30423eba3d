import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { libc } from "../../../ffi/libc.ts";
import { Destination, Endpoint } from "../../../lib/rdma/roce/endpoint.ts";
import { MAX_SEGMENTS } from "../../../lib/rdma/roce/icrc.ts";
import { maskBth, packetBytes, writeBth } from "../../../lib/rdma/roce/headers.ts";
import { ICRC_BYTES, PacketOpcode } from "../../../lib/rdma/roce/opcode.ts";
import { BATCH_MESSAGES, MESSAGE_SLOT_BYTES, TransmitBatch } from "../../../lib/rdma/roce/wire.ts";

// Loaded once for the process: Deno's sanitizers would count it for the test that is first.
libc();

/** The most that a UDP datagram over IPv4 carries: 65535 less the IP and UDP headers. */
const MAX_DATAGRAM_BYTES = 65507;

const local = new Endpoint(Uint8Array.of(10, 0, 0, 1), 4791);
const destinations = [2, 3].map((last) =>
  new Destination(local, new Endpoint(Uint8Array.of(10, 0, 0, last), 4791))
);
const [first, second] = destinations as [Destination, Destination];

/** Bytes of a SEND's only packet. */
const sizes = fc.oneof(fc.nat(16), fc.constantFrom(256, 1024, 4096))
  .map((payload) => packetBytes(PacketOpcode.SEND_ONLY, payload));

/** Packets in a row for one destination, all of one size. */
const runs = fc.record({
  destination: fc.constantFrom(...destinations),
  bytes: sizes,
  count: fc.integer({ min: 1, max: 100 }),
});

/** A packet in a batch: where it is, and what it was meant to be. */
interface Placed {
  readonly at: number;
  readonly bytes: number;
  readonly destination: Destination;
  readonly psn: number;
}

/** Puts packets into a batch until it is full; they bear PSNs from 0 on. */
function fill(batch: TransmitBatch, packets: Omit<Placed, "at" | "psn">[]): Placed[] {
  const placed: Placed[] = [];
  for (const { destination, bytes } of packets) {
    const at = batch.begin(destination, bytes);
    if (at < 0) break;
    const psn = placed.length;
    writeBth(batch.view, at, PacketOpcode.SEND_ONLY, 0, 17, psn, false, false);
    batch.end(at, bytes);
    placed.push({ at, bytes, destination, psn });
  }
  return placed;
}

/** The packets of a batch as the kernel cuts them, message by message. */
function cut(batch: TransmitBatch): { at: number; bytes: number; message: number }[] {
  return Array.from({ length: batch.count }, (_, message) => {
    const start = message * MESSAGE_SLOT_BYTES;
    const length = batch.lengths[message]!;
    const size = batch.segmentBytes[message]!;
    return Array.from({ length: Math.ceil(length / size) }, (_, segment) => ({
      at: start + segment * size,
      bytes: Math.min(size, length - segment * size),
      message,
    }));
  }).flat();
}

Deno.test("the kernel cuts a batch into the packets that were put in, each to its destination, with its ICRC", () => {
  fc.assert(fc.property(
    fc.array(runs, { minLength: 1, maxLength: 12 }),
    fc.constantFrom(1, 2, MAX_SEGMENTS),
    (given, maxSegments) => {
      using batch = new TransmitBatch(maxSegments);
      const packets = given.flatMap(({ count, ...packet }) => Array(count).fill(packet));
      const placed = fill(batch, packets);

      const segments = cut(batch);
      assertEquals(
        segments.map(({ at, bytes }) => [at, bytes]),
        placed.map((p) => [p.at, p.bytes]),
      );
      assertEquals(batch.packets, placed.length);
      for (const [index, { destination, psn, at, bytes }] of placed.entries()) {
        const { message } = segments[index]!;
        assertEquals(batch.destinations[message], destination);
        assertEquals(batch.view.getUint32(at + 8), psn);
        const segment = (at - message * MESSAGE_SLOT_BYTES) / batch.segmentBytes[message]!;
        assertEquals(
          icrcOf(batch, at, bytes),
          expectedIcrc(batch, destination, at, bytes, segment),
        );
      }
      for (let message = 0; message < batch.count; message++) {
        const count = segments.filter((segment) => segment.message === message).length;
        assertEquals(batch.segments[message], count);
        assert(count <= maxSegments && batch.lengths[message]! <= MAX_DATAGRAM_BYTES);
      }
      // What did not find room would have needed one message more.
      if (placed.length < packets.length) assertEquals(batch.count, BATCH_MESSAGES);
    },
  ));
});

Deno.test("packets of one size to one destination go into one message, and a shorter one ends it", () => {
  using batch = new TransmitBatch();
  fill(batch, [
    { destination: first, bytes: 32 },
    { destination: first, bytes: 32 },
    { destination: first, bytes: 16 },
    { destination: first, bytes: 16 },
    { destination: first, bytes: 32 },
  ]);
  assertEquals([...batch.lengths.subarray(0, batch.count)], [80, 16, 32]);
  assertEquals([...batch.segments.subarray(0, batch.count)], [3, 1, 1]);
});

Deno.test("packets to different destinations are never in one message", () => {
  using batch = new TransmitBatch();
  fill(batch, [first, second, first].map((destination) => ({ destination, bytes: 32 })));
  assertEquals(batch.destinations.slice(0, batch.count), [first, second, first]);
});

Deno.test("a batch takes no more packets than fit, and all again once it is cleared", () => {
  using batch = new TransmitBatch();
  const bytes = packetBytes(PacketOpcode.SEND_ONLY, 4096);
  const perMessage = Math.floor(MAX_DATAGRAM_BYTES / bytes);
  const packets = Array(1000).fill({ destination: first, bytes });
  for (let round = 0; round < 2; round++) {
    assertEquals(fill(batch, packets).length, BATCH_MESSAGES * perMessage);
    assertEquals(batch.begin(first, 16), 7 * MESSAGE_SLOT_BYTES + perMessage * bytes);
    assertEquals(batch.begin(first, 16), -1);
    batch.clear();
    assertEquals([batch.count, batch.packets], [0, 0]);
  }
});

Deno.test("where messages cannot be cut, each has one packet", () => {
  using batch = new TransmitBatch(1);
  const packets = Array(BATCH_MESSAGES + 1).fill({ destination: first, bytes: 16 });
  assertEquals(fill(batch, packets).length, BATCH_MESSAGES);
  assertEquals(batch.count, BATCH_MESSAGES);
});

function icrcOf(batch: TransmitBatch, at: number, bytes: number): number {
  return batch.view.getUint32(at + bytes - ICRC_BYTES, true);
}

/** The ICRC for the IP ID that the kernel gives to a segment: its place in the message. */
function expectedIcrc(
  batch: TransmitBatch,
  destination: Destination,
  at: number,
  bytes: number,
  segment: number,
): number {
  const covered = batch.bytes.slice(at, at + bytes - ICRC_BYTES);
  assertEquals(covered[4], 0);
  maskBth(new DataView(covered.buffer), 0);
  return destination.icrc.icrc(covered, segment);
}
