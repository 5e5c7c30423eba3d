import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import {
  DEFAULT_PKEY,
  MAX_PACKET_BYTES,
  Packet,
  packetBytes,
  padBytes,
  RNR_TIMER_MS,
  writeAeth,
  writeAtomicAckEth,
  writeAtomicEth,
  writeBth,
  writeImmediate,
  writeReth,
} from "../../../lib/rdma/roce/headers.ts";
import {
  headerBytesOf,
  ICRC_BYTES,
  PacketOpcode,
  Trait,
  traitsOf,
} from "../../../lib/rdma/roce/opcode.ts";

const MAX_MTU = 4096;
const M_BIT = 0x40;

const opcodes = fc.constantFrom(...Object.values(PacketOpcode));
const uint24 = fc.integer({ min: 0, max: 0xff_ffff });
const uint32 = fc.integer({ min: 0, max: 0xffff_ffff });
const payloadSizes = fc.oneof(fc.integer({ min: 0, max: MAX_MTU }), fc.nat(9));

/** Values of all fields; a packet has those that its opcode has. */
const fields = fc.record({
  destQpn: uint24,
  psn: uint24,
  ackRequested: fc.boolean(),
  solicited: fc.boolean(),
  address: fc.maxSafeNat(),
  rkey: uint32,
  dmaLength: uint32,
  swapHigh: uint32,
  swapLow: uint32,
  compareHigh: uint32,
  compareLow: uint32,
  syndrome: fc.nat(255),
  msn: uint24,
  originalHigh: uint32,
  originalLow: uint32,
  immediate: uint32,
});

type Fields = typeof fields extends fc.Arbitrary<infer Value> ? Value : never;

/** The fields of the headers that a trait stands for. */
const fieldsOf: readonly (readonly [number, readonly (keyof Fields)[]])[] = [
  [Trait.RETH, ["address", "rkey", "dmaLength"]],
  [
    Trait.ATOMIC_ETH,
    ["address", "rkey", "swapHigh", "swapLow", "compareHigh", "compareLow"],
  ],
  [Trait.AETH, ["syndrome", "msn"]],
  [Trait.ATOMIC_ACK_ETH, ["originalHigh", "originalLow"]],
  [Trait.IMMEDIATE, ["immediate"]],
];

function write(view: DataView, at: number, opcode: number, payload: number, given: Fields): void {
  const { destQpn, psn, ackRequested, solicited, address, rkey } = given;
  const traits = traitsOf(opcode);
  writeBth(view, at, opcode, payload, destQpn, psn, ackRequested, solicited);
  if (traits & Trait.RETH) writeReth(view, at, address, rkey, given.dmaLength);
  if (traits & Trait.ATOMIC_ETH) {
    const { swapHigh, swapLow, compareHigh, compareLow } = given;
    writeAtomicEth(view, at, address, rkey, swapHigh, swapLow, compareHigh, compareLow);
  }
  if (traits & Trait.AETH) writeAeth(view, at, given.syndrome, given.msn);
  if (traits & Trait.ATOMIC_ACK_ETH) {
    writeAtomicAckEth(view, at, given.originalHigh, given.originalLow);
  }
  if (traits & Trait.IMMEDIATE) writeImmediate(view, at, opcode, given.immediate);
}

Deno.test("what is written into the headers of any opcode is what is read from them", () => {
  fc.assert(fc.property(opcodes, payloadSizes, fields, fc.nat(64), (opcode, size, given, at) => {
    const traits = traitsOf(opcode);
    const payload = traits & Trait.PAYLOAD ? size : 0;
    const bytes = packetBytes(opcode, payload);
    const view = new DataView(new ArrayBuffer(at + bytes));
    write(view, at, opcode, payload, given);

    const packet = new Packet();
    assert(packet.decode(view, at, bytes));

    const { opcode: readOpcode, traits: readTraits, pkey, payload: start, payloadBytes } = packet;
    assertEquals([readOpcode, readTraits, pkey], [opcode, traits, DEFAULT_PKEY]);
    assertEquals([start, payloadBytes], [at + headerBytesOf(opcode), payload]);
    const extended = fieldsOf.flatMap(([trait, names]) => traits & trait ? names : []);
    for (const name of ["destQpn", "psn", "ackRequested", "solicited", ...extended] as const) {
      assertEquals(packet[name], given[name], name);
    }
  }));
});

Deno.test("headers, payload, padding and ICRC make up the packet, and fill whole words", () => {
  fc.assert(fc.property(opcodes, payloadSizes, (opcode, payload) => {
    const bytes = packetBytes(opcode, payload);
    assertEquals(bytes, headerBytesOf(opcode) + payload + padBytes(payload) + ICRC_BYTES);
    assertEquals(bytes % 4, 0);
    assert(padBytes(payload) < 4);
  }));
});

Deno.test("no packet of a path MTU of 4096 is longer than the longest", () => {
  const longest = Object.values(PacketOpcode).map((opcode) =>
    packetBytes(opcode, traitsOf(opcode) & Trait.PAYLOAD ? MAX_MTU : 0)
  );
  assertEquals(Math.max(...longest), MAX_PACKET_BYTES);
});

Deno.test("a BTH says that path migration has been done, as where there is none", () => {
  const view = new DataView(new ArrayBuffer(16));
  writeBth(view, 0, PacketOpcode.SEND_ONLY, 0, 17, 1, false, false);
  assertEquals(view.getUint8(1), M_BIT);
});

Deno.test("headers shorter than those of the opcode are malformed, whatever is cut off", () => {
  fc.assert(fc.property(opcodes, fields, fc.nat(), (opcode, given, cut) => {
    const view = new DataView(new ArrayBuffer(packetBytes(opcode, 0)));
    write(view, 0, opcode, 0, given);
    assert(!new Packet().decode(view, 0, cut % view.byteLength));
  }));
});

/** Headers with zeros for all fields, and what makes them malformed. */
const malformed: Record<string, (view: DataView) => void> = {
  "of an opcode after the last of RC": (view) => view.setUint8(0, PacketOpcode.FETCH_ADD + 1),
  "of an opcode of another transport service": (view) => view.setUint8(0, 0x64),
  "of another header version": (view) => view.setUint8(1, 0x01),
  "with padding that makes up for no payload": (view) => view.setUint8(1, 3 << 4),
};

for (const [what, spoil] of Object.entries(malformed)) {
  Deno.test(`a packet ${what} is malformed`, () => {
    const view = new DataView(new ArrayBuffer(packetBytes(PacketOpcode.SEND_ONLY, 0)));
    write(view, 0, PacketOpcode.SEND_ONLY, 0, zeros);
    assert(new Packet().decode(view, 0, view.byteLength));
    spoil(view);
    assert(!new Packet().decode(view, 0, view.byteLength));
  });
}

const zeros: Fields = {
  ...{ destQpn: 0, psn: 0, ackRequested: false, solicited: false },
  ...{ address: 0, rkey: 0, dmaLength: 0 },
  ...{ swapHigh: 0, swapLow: 0, compareHigh: 0, compareLow: 0 },
  ...{ syndrome: 0, msn: 0, originalHigh: 0, originalLow: 0, immediate: 0 },
};

Deno.test("a payload where the opcode has none is malformed", () => {
  const { READ_REQUEST, ACKNOWLEDGE, ATOMIC_ACKNOWLEDGE, COMPARE_SWAP, FETCH_ADD } = PacketOpcode;
  const without = [READ_REQUEST, ACKNOWLEDGE, ATOMIC_ACKNOWLEDGE, COMPARE_SWAP, FETCH_ADD];
  const view = new DataView(new ArrayBuffer(64));
  const refused = Object.values(PacketOpcode).filter((opcode) => {
    write(view, 0, opcode, 4, zeros);
    return !new Packet().decode(view, 0, packetBytes(opcode, 4));
  });
  assertEquals(refused, without);
});

Deno.test("a packet that does not fill whole words, or is longer than any, is malformed", () => {
  const packet = new Packet();
  const view = new DataView(new ArrayBuffer(MAX_PACKET_BYTES + 4));
  const readable = Array.from({ length: view.byteLength + 1 }, (_, length) => length)
    .filter((length) => packet.decode(view, 0, length));
  const whole = Array.from(
    { length: 1 + (MAX_PACKET_BYTES - 16) / 4 },
    (_, words) => 16 + 4 * words,
  );
  assertEquals(readable, whole);
});

Deno.test("an address that no memory of a process has is read as -1", () => {
  const view = new DataView(new ArrayBuffer(packetBytes(PacketOpcode.READ_REQUEST, 0)));
  write(view, 0, PacketOpcode.READ_REQUEST, 0, zeros);
  const packet = new Packet();
  for (
    const [address, read] of [
      [2n ** 53n - 1n, Number.MAX_SAFE_INTEGER],
      [2n ** 53n, -1],
      [2n ** 64n - 1n, -1],
    ] as const
  ) {
    view.setBigUint64(12, address);
    assert(packet.decode(view, 0, view.byteLength));
    assertEquals(packet.address, read);
  }
});

Deno.test("any bytes of any length are read without an exception, and no payload reaches beyond them", () => {
  const packet = new Packet();
  // A known opcode and no header version in every second case, or few would come past the BTH.
  const starts = fc.oneof(
    fc.uint8Array({ maxLength: 2 }),
    fc.tuple(opcodes, fc.constantFrom(0x00, 0x10, 0x20, 0x30, 0xf0)).map((start) =>
      Uint8Array.from(start)
    ),
  );
  const rests = fc.uint8Array({ maxLength: 2 * MAX_PACKET_BYTES, size: "max" });
  fc.assert(
    fc.property(starts, rests, fc.nat(8), (start, rest, at) => {
      const bytes = new Uint8Array([...new Uint8Array(at), ...start, ...rest]);
      const length = bytes.length - at;
      if (!packet.decode(new DataView(bytes.buffer), at, length)) return;
      assert(packet.payloadBytes >= 0 && packet.payload >= at + headerBytesOf(packet.opcode));
      assert(packet.payload + packet.payloadBytes + ICRC_BYTES <= at + length);
      assert(length <= MAX_PACKET_BYTES);
    }),
    { numRuns: 2000 },
  );
});

Deno.test("RNR timer codes wait twice as long as those two before, and 0 the longest", () => {
  assertEquals(RNR_TIMER_MS.length, 32);
  assertEquals(RNR_TIMER_MS.slice(1, 4), [0.01, 0.02, 0.03]);
  for (let code = 4; code < 32; code++) {
    assertEquals(Math.round(100 * RNR_TIMER_MS[code]!), Math.round(200 * RNR_TIMER_MS[code - 2]!));
  }
  assertEquals(RNR_TIMER_MS[0], 655.36);
});
