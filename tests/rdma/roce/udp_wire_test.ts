import { assert, assertEquals, assertThrows } from "@std/assert";
import { C, check, libc } from "../../../ffi/libc.ts";
import { RdmaError } from "../../../lib/errors.ts";
import { Destination, Endpoint } from "../../../lib/rdma/roce/endpoint.ts";
import { UdpWire } from "../../../lib/rdma/roce/udp_wire.ts";
import { MESSAGE_SLOT_BYTES, ReceiveBatch, TransmitBatch } from "../../../lib/rdma/roce/wire.ts";

// Deno's check for leaks wants libraries loaded before the first test.
libc();

const IPV4 = Uint8Array.of(127, 0, 0, 1);
const IPV6 = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1);
const PACKET_BYTES = 4112;

interface Received {
  /** Numbers that {@linkcode fill} gave the packets, in the order of arrival. */
  readonly numbers: readonly number[];
  readonly sizes: readonly number[];
  readonly messages: number;
}

function destination(from: UdpWire, to: Endpoint): Destination {
  return new Destination(from.local, to);
}

/** Puts packets into the batch, each with its number in every word; ends when it is full. */
function fill(batch: TransmitBatch, to: Destination, sizes: readonly number[], first = 0): number {
  for (const [index, size] of sizes.entries()) {
    const at = batch.begin(to, size);
    if (at < 0) return index;
    new Uint32Array(batch.bytes.buffer, at, size / 4).fill(first + index);
  }
  return sizes.length;
}

/** Receives until `packets` have come, and checks that each is whole and from `source`. */
async function receive(wire: UdpWire, packets: number, source: Endpoint): Promise<Received> {
  using batch = new ReceiveBatch();
  const numbers: number[] = [];
  const sizes: number[] = [];
  let messages = 0;
  while (numbers.length < packets) {
    assert(await wire.readable());
    const count = wire.receive(batch);
    messages += count;
    for (let message = 0; message < count; message++) {
      assertEquals(batch.sourcePorts[message], source.port);
      assertEquals(batch.sources.slice(4 * message, 4 * message + 4), source.words);
      const length = batch.lengths[message]!;
      assert(length > 0, "a message is whole");
      const segment = batch.segmentBytes[message]!;
      for (let at = 0; at < length; at += segment) {
        const size = Math.min(segment, length - at);
        const words = new Uint32Array(
          batch.bytes.buffer,
          message * MESSAGE_SLOT_BYTES + at,
          size / 4,
        );
        assert(words.every((word) => word === words[0]), "a packet is whole");
        numbers.push(words[0]!);
        sizes.push(size);
      }
    }
  }
  return { numbers, sizes, messages };
}

/** A socket of a kernel that does not put packets together. */
class UncoalescedWire extends UdpWire {
  constructor(address: Uint8Array<ArrayBuffer>) {
    super(address, 0);
    setOption(this.descriptor, C.SOL_UDP, C.UDP_GRO, 0);
  }
}

/** A socket that sends no checksums: the kernel then does not cut messages, as without checksum offload. */
class UncutWire extends UdpWire {
  constructor(address: Uint8Array<ArrayBuffer>) {
    super(address, 0);
    const SO_NO_CHECK = 11;
    setOption(this.descriptor, C.SOL_SOCKET, SO_NO_CHECK, 1);
  }
}

function setOption(descriptor: number, level: number, option: number, value: number): void {
  const bytes = Int32Array.of(value);
  check("setsockopt", libc().setsockopt(descriptor, level, option, bytes, bytes.byteLength));
}

const upTo = (count: number) => Array.from({ length: count }, (_, index) => index);
const equal = (count: number) => Array<number>(count).fill(PACKET_BYTES);

for (const [name, address] of [["IPv4", IPV4], ["IPv6", IPV6]] as const) {
  Deno.test(`over ${name} a batch arrives whole and in order, in messages of many packets`, async () => {
    using sender = new UdpWire(address, 0);
    using receiver = new UdpWire(address, 0);
    using batch = new TransmitBatch(sender.maxSegments);
    const sizes = [...equal(14), 1040];
    fill(batch, destination(sender, receiver.local), sizes);
    assertEquals(batch.count, 1);
    assertEquals(sender.send(batch, 0), 1);
    const received = await receive(receiver, sizes.length, sender.local);
    assertEquals(received, { numbers: upTo(sizes.length), sizes, messages: 1 });
  });

  Deno.test(`over ${name} a message of many packets arrives whole after one of a single packet`, async () => {
    using sender = new UdpWire(address, 0);
    using receiver = new UdpWire(address, 0);
    using batch = new TransmitBatch(sender.maxSegments);
    for (const packets of [1, 15, 1, 15]) {
      batch.clear();
      fill(batch, destination(sender, receiver.local), equal(packets));
      assertEquals(sender.send(batch, 0), 1);
      assertEquals((await receive(receiver, packets, sender.local)).numbers, upTo(packets));
    }
  });

  Deno.test(`over ${name} packets arrive without UDP_SEGMENT`, async () => {
    using sender = new UdpWire(address, 0);
    using receiver = new UdpWire(address, 0);
    using batch = new TransmitBatch(1);
    assertEquals(fill(batch, destination(sender, receiver.local), equal(9)), 8);
    assertEquals(sender.send(batch, 0), 8);
    const received = await receive(receiver, 8, sender.local);
    assertEquals(received.numbers, upTo(8));
  });

  Deno.test(`over ${name} packets arrive without UDP_GRO`, async () => {
    using sender = new UdpWire(address, 0);
    using receiver = new UncoalescedWire(address);
    using batch = new TransmitBatch(sender.maxSegments);
    const sizes = [...equal(14), 1040];
    fill(batch, destination(sender, receiver.local), sizes);
    assertEquals(sender.send(batch, 0), 1);
    const received = await receive(receiver, sizes.length, sender.local);
    assertEquals(received, { numbers: upTo(sizes.length), sizes, messages: sizes.length });
  });
}

Deno.test("one batch serves several peers and several packet sizes", async () => {
  using sender = new UdpWire(IPV4, 0);
  using one = new UdpWire(IPV4, 0);
  using other = new UdpWire(IPV4, 0);
  using batch = new TransmitBatch(sender.maxSegments);
  const [toOne, toOther] = [destination(sender, one.local), destination(sender, other.local)];
  fill(batch, toOne, [256, 256, 256]);
  fill(batch, toOther, [1040, 1040, 16], 10);
  fill(batch, toOne, [4112, 4112], 3);
  assertEquals(sender.send(batch, 0), 3);
  const first = await receive(one, 5, sender.local);
  assertEquals(first.numbers, [0, 1, 2, 3, 4]);
  assertEquals(first.sizes, [256, 256, 256, 4112, 4112]);
  const second = await receive(other, 3, sender.local);
  assertEquals(second.numbers, [10, 11, 12]);
  assertEquals(second.sizes, [1040, 1040, 16]);
});

Deno.test("sending goes on from the first message that was not taken", async () => {
  using sender = new UdpWire(IPV4, 0);
  using receiver = new UdpWire(IPV4, 0);
  using batch = new TransmitBatch(1);
  fill(batch, destination(sender, receiver.local), equal(8));
  assertEquals(sender.send(batch, 5), 3);
  assertEquals((await receive(receiver, 3, sender.local)).numbers, [5, 6, 7]);
});

Deno.test("nothing to receive is no message", () => {
  using wire = new UdpWire(IPV4, 0);
  using batch = new ReceiveBatch();
  assertEquals(wire.receive(batch), 0);
});

Deno.test("an empty datagram is a message of no packets", async () => {
  using receiver = new UdpWire(IPV4, 0);
  using sender = new UdpWire(IPV4, 0);
  using nothing = new TransmitBatch(1);
  nothing.begin(destination(sender, receiver.local), 0);
  assertEquals(sender.send(nothing, 0), 1);
  assert(await receiver.readable());
  using batch = new ReceiveBatch();
  assertEquals(receiver.receive(batch), 1);
  assertEquals(batch.lengths[0], 0);
});

Deno.test("a port that another socket has is named as taken", () => {
  using first = new UdpWire(IPV4, 0);
  const error = assertThrows(() => new UdpWire(IPV4, first.local.port), RdmaError);
  assertEquals(error.code, "udp_port_taken");
  using another = new UdpWire(Uint8Array.of(127, 0, 0, 2), first.local.port);
  assertEquals(another.local.port, first.local.port);
});

Deno.test("an address of another host is refused with a remedy", () => {
  const error = assertThrows(() => new UdpWire(Uint8Array.of(192, 0, 2, 1), 0), RdmaError);
  assertEquals(error.code, "no_such_address");
  assert(error.remedy !== "");
});

Deno.test("messages to a closed port or an impossible destination are lost, and the others arrive", async () => {
  using sender = new UdpWire(IPV4, 0);
  using receiver = new UdpWire(IPV4, 0);
  const closed = new UdpWire(IPV4, 0);
  closed[Symbol.dispose]();
  using batch = new TransmitBatch(sender.maxSegments);
  const before = sender.maxSegments;
  for (let round = 0; round < 3; round++) {
    batch.clear();
    fill(batch, destination(sender, closed.local), equal(2));
    fill(batch, destination(sender, new Endpoint(IPV4, 0)), equal(2));
    fill(batch, destination(sender, new Endpoint(Uint8Array.of(192, 0, 2, 1), 4791)), equal(2));
    fill(batch, destination(sender, receiver.local), equal(2), 2 * round);
    assertEquals(sender.send(batch, 0), 4);
  }
  assertEquals((await receive(receiver, 6, sender.local)).numbers, upTo(6));
  assertEquals(sender.maxSegments, before);
});

Deno.test("where messages cannot be cut, single packets are sent from then on", async () => {
  using sender = new UncutWire(IPV4);
  using receiver = new UdpWire(IPV4, 0);
  const to = destination(sender, receiver.local);
  using cut = new TransmitBatch(sender.maxSegments);
  fill(cut, to, equal(15));
  assertEquals(sender.send(cut, 0), 1);
  assertEquals(sender.maxSegments, 1);
  using uncut = new TransmitBatch(sender.maxSegments);
  fill(uncut, to, equal(8), 100);
  assertEquals(sender.send(uncut, 0), 8);
  const { numbers } = await receive(receiver, 9, sender.local);
  assertEquals(numbers, [0, ...upTo(8).map((number) => number + 100)]);
});

Deno.test("disposing ends a wait, and use afterwards is an error", async () => {
  const wire = new UdpWire(IPV4, 0);
  const waiting = wire.readable();
  wire[Symbol.dispose]();
  wire[Symbol.dispose]();
  assertEquals(await waiting, false);
  using batch = new ReceiveBatch();
  assertEquals(assertThrows(() => wire.receive(batch), RdmaError).code, "disposed");
});

/** Where packets came from that the next call receives. */
async function sources(wire: UdpWire): Promise<number[]> {
  using batch = new ReceiveBatch();
  assert(await wire.readable());
  const count = wire.receive(batch);
  return [...batch.sourcePorts.subarray(0, count)];
}

/** Sends so many messages of some packets each. */
function send(from: UdpWire, to: Endpoint, messages: number): void {
  using batch = new TransmitBatch(from.maxSegments);
  fill(batch, destination(from, to), equal(4));
  for (let count = 0; count < messages; count++) assertEquals(from.send(batch, 0), 1);
}

for (const [name, address] of [["IPv4", IPV4], ["IPv6", IPV6]] as const) {
  Deno.test(`over ${name} packets of an attended peer wait for none of others`, async () => {
    using peer = new UdpWire(address, 0);
    using other = new UdpWire(address, 0);
    using receiver = new UdpWire(address, 0);
    receiver.attend(peer.local);
    send(other, receiver.local, 32);
    send(peer, receiver.local, 1);
    const ports = [peer.local.port, other.local.port];
    assertEquals((await sources(receiver)).toSorted(), ports.toSorted());
  });

  Deno.test(`over ${name} who sends many packets in a message sits out the turns that they are worth`, async () => {
    using flooding = new UdpWire(address, 0);
    using modest = new UdpWire(address, 0);
    using receiver = new UdpWire(address, 0);
    receiver.attend(flooding.local);
    receiver.attend(modest.local);
    using many = new TransmitBatch(flooding.maxSegments);
    fill(many, destination(flooding, receiver.local), Array<number>(64).fill(16));
    for (let count = 0; count < 3; count++) assertEquals(flooding.send(many, 0), 1);
    send(modest, receiver.local, 8);
    const turns = [];
    for (let turn = 0; turn < 6; turn++) turns.push(await sources(receiver));
    const both = [flooding.local.port, modest.local.port];
    assertEquals(turns[0]!.toSorted(), both.toSorted());
    assertEquals(turns.slice(1, 5), Array(4).fill([modest.local.port]));
    assertEquals(turns[5]!.toSorted(), both.toSorted());
  });

  Deno.test(`over ${name} strangers have a message taken now and then while a peer is attended`, async () => {
    using peer = new UdpWire(address, 0);
    using stranger = new UdpWire(address, 0);
    using receiver = new UdpWire(address, 0);
    receiver.attend(peer.local);
    send(stranger, receiver.local, 32);
    assertEquals(await sources(receiver), [stranger.local.port]);
    // No time passes for the timers of a thread that does not wait.
    using batch = new ReceiveBatch();
    assertEquals(receiver.receive(batch), 0);
    send(peer, receiver.local, 1);
    assertEquals(receiver.receive(batch), 1);
    assertEquals(batch.sourcePorts[0], peer.local.port);
    assertEquals(await sources(receiver), [stranger.local.port]);
  });

  Deno.test(`over ${name} packets of a peer that is neglected again arrive all the same`, async () => {
    using peer = new UdpWire(address, 0);
    using receiver = new UdpWire(address, 0);
    receiver.attend(peer.local);
    receiver.neglect(peer.local);
    send(peer, receiver.local, 1);
    assertEquals((await receive(receiver, 4, peer.local)).numbers, upTo(4));
  });

  Deno.test(`over ${name} nobody else gets a port whose peers are attended`, () => {
    using peer = new UdpWire(address, 0);
    using receiver = new UdpWire(address, 0);
    receiver.attend(peer.local);
    const error = assertThrows(() => new UdpWire(address, receiver.local.port), RdmaError);
    assertEquals(error.code, "udp_port_taken");
  });
}

Deno.test("a peer that is sent to by RoCE's port may send from any, as RDMA devices do", async () => {
  const device = Uint8Array.of(127, 0, 0, 9);
  using peer = new UdpWire(device, 0);
  using other = new UdpWire(IPV4, 0);
  using receiver = new UdpWire(IPV4, 0);
  receiver.attend(new Endpoint(device, 4791));
  send(other, receiver.local, 32);
  send(peer, receiver.local, 1);
  const ports = [peer.local.port, other.local.port];
  assertEquals((await sources(receiver)).toSorted(), ports.toSorted());
});
