/** What a reliable connection moves, of both providers. */
import { assert, assertEquals } from "@std/assert";
import { PATH_MTUS } from "../../lib/rdma/address.ts";
import { Opcode, SendFlag } from "../../lib/rdma/work_request.ts";
import { type ReliableEnd, ReliablePair, verbsTest } from "./resources.ts";

/** Where in an end's memory the parts of a test lie. */
const THERE = 16384;
const BACK = 32768;

function randomBytes(length: number): Uint8Array<ArrayBuffer> {
  return crypto.getRandomValues(new Uint8Array(length));
}

function part({ memory }: ReliableEnd, offset: number, length: number): Uint8Array {
  return memory.bytes.slice(offset, offset + length);
}

verbsTest("SEND with immediate arrives in a posted receive", async () => {
  using pair = new ReliablePair();
  const { client, server } = pair;
  server.receive(77, 0, 4096);
  client.memory.bytes.set([1, 2, 3]);
  client.sends.prepare(0, 5, Opcode.SEND_WITH_IMMEDIATE, SendFlag.SIGNALED)
    .buffer(0, client.region.address, 3, client.region.lkey).immediate(0, 0xdeadbeef);
  client.queuePair.postSend(client.sends);
  await client.succeeded();
  assertEquals(client.queue.completions.wrId(0), 5);
  await server.succeeded();
  const { completions } = server.queue;
  assertEquals(completions.wrId(0), 77);
  assert(completions.isReceive(0) && completions.hasImmediate(0));
  assertEquals(completions.immediate(0), 0xdeadbeef);
  assertEquals(completions.byteLength(0), 3);
  assertEquals([...server.memory.bytes.subarray(0, 4)], [1, 2, 3, 0]);
});

verbsTest("WRITE, WRITE with immediate and READ move memory without the peer", async () => {
  using pair = new ReliablePair();
  const { client, server } = pair;
  server.receives.prepare(0, 1);
  server.queuePair.postReceive(server.receives);
  client.memory.bytes.subarray(0, 8192).fill(7);
  client.sends.prepare(0, 1, Opcode.WRITE, SendFlag.NONE)
    .buffer(0, client.region.address, 8192, client.region.lkey)
    .remote(0, server.region.address + 100, server.region.rkey);
  client.sends.prepare(1, 2, Opcode.WRITE_WITH_IMMEDIATE, SendFlag.SIGNALED)
    .buffer(1, client.region.address, 1, client.region.lkey)
    .remote(1, server.region.address, server.region.rkey).immediate(1, 42);
  client.queuePair.postSend(client.sends, 0, 2);
  await server.succeeded();
  const { completions } = server.queue;
  assert(completions.isReceive(0) && completions.hasImmediate(0));
  assertEquals(completions.immediate(0), 42);
  await client.succeeded();
  assertEquals(client.queue.completions.wrId(0), 2);
  assert(server.memory.bytes.subarray(100, 8292).every((byte) => byte === 7));
  assertEquals(server.memory.bytes[8292], 0);

  server.memory.bytes.subarray(0, 4096).fill(9);
  client.sends.prepare(0, 3, Opcode.READ, SendFlag.SIGNALED)
    .buffer(0, client.region.address + THERE, 4096, client.region.lkey)
    .remote(0, server.region.address, server.region.rkey);
  client.queuePair.postSend(client.sends);
  await client.succeeded();
  assertEquals(client.queue.completions.byteLength(0), 4096);
  assertEquals(client.queue.completions.isReceive(0), false);
  assert(client.memory.bytes.subarray(THERE, THERE + 4096).every((byte) => byte === 9));
});

for (const pathMtu of PATH_MTUS) {
  verbsTest(`messages of any size pass whole at path MTU ${pathMtu}`, async () => {
    using pair = new ReliablePair({ pathMtu });
    const { client, server } = pair;
    const { region, sends, queuePair } = client;
    for (const length of [0, 1, pathMtu - 1, pathMtu, pathMtu + 1, 2 * pathMtu, 3 * pathMtu + 5]) {
      const sent = randomBytes(length);
      client.memory.bytes.set(sent, 1);
      server.memory.bytes.fill(0);
      server.receive(4, 0, THERE);
      const remote = server.region.address + THERE + 3;
      sends.prepare(0, 1, Opcode.SEND, SendFlag.SIGNALED)
        .buffer(0, region.address + 1, length, region.lkey);
      sends.prepare(1, 2, Opcode.WRITE, SendFlag.SIGNALED)
        .buffer(1, region.address + 1, length, region.lkey)
        .remote(1, remote, server.region.rkey);
      sends.prepare(2, 3, Opcode.READ, SendFlag.SIGNALED)
        .buffer(2, region.address + BACK, length, region.lkey)
        .remote(2, remote, server.region.rkey);
      queuePair.postSend(sends, 0, 3);
      const all = [1, 2, 3].map((wrId) => [wrId, "IBV_WC_SUCCESS"]);
      assertEquals(await client.outcomes(3), all, `${length} bytes`);
      await server.succeeded();
      assertEquals(server.queue.completions.byteLength(0), length);
      assertEquals(part(server, 0, length), sent, `${length} bytes sent`);
      assertEquals(server.memory.bytes[length], 0);
      assertEquals(part(server, THERE + 3, length), sent, `${length} bytes written`);
      assertEquals(server.memory.bytes[THERE + 3 + length], 0);
      assertEquals(part(client, BACK, length), sent, `${length} bytes read`);
    }
  });
}

verbsTest("a request gathers its buffers and scatters over those of a receive", async () => {
  using pair = new ReliablePair({ pathMtu: 256 });
  const { client, server } = pair;
  const sent = randomBytes(900);
  const pieces = [0, 100, 101, 900];
  client.sends.prepare(0, 1, Opcode.SEND, SendFlag.SIGNALED);
  server.receives.prepare(0, 2);
  for (let index = 0; index < 3; index++) {
    const [from, to] = pieces.slice(index) as [number, number];
    client.memory.bytes.set(sent.subarray(from, to), index * 4096);
    client.sends.buffer(0, client.region.address + index * 4096, to - from, client.region.lkey);
    server.receives.buffer(0, server.region.address + index * 4096, 301, server.region.lkey);
  }
  server.queuePair.postReceive(server.receives);
  client.queuePair.postSend(client.sends);
  await server.succeeded();
  const received = [0, 1, 2].flatMap((index) => [...part(server, index * 4096, 301)]);
  assertEquals(received.slice(0, 900), [...sent]);
  assertEquals(server.queue.completions.byteLength(0), 900);
  await client.succeeded();
});

verbsTest("atomics change the peer's memory and give its former value", async () => {
  using pair = new ReliablePair();
  const { client, server } = pair;
  const theirs = new DataView(server.memory.bytes.buffer);
  const ours = new DataView(client.memory.bytes.buffer);
  const atomic = async (opcode: Opcode, operand: bigint, swap = 0n) => {
    client.sends.prepare(0, 1, opcode, SendFlag.SIGNALED)
      .buffer(0, client.region.address, 8, client.region.lkey)
      .atomic(0, server.region.address, server.region.rkey, operand, swap);
    client.queuePair.postSend(client.sends);
    await client.succeeded();
    return [ours.getBigUint64(0, true), theirs.getBigUint64(0, true)];
  };
  theirs.setBigUint64(0, 0xffff_ffffn, true);
  assertEquals(await atomic(Opcode.FETCH_AND_ADD, 2n), [0xffff_ffffn, 0x1_0000_0001n]);
  assertEquals(await atomic(Opcode.FETCH_AND_ADD, -2n), [0x1_0000_0001n, 0xffff_ffffn]);
  assertEquals(await atomic(Opcode.COMPARE_AND_SWAP, 7n, 1n), [0xffff_ffffn, 0xffff_ffffn]);
  assertEquals(
    await atomic(Opcode.COMPARE_AND_SWAP, 0xffff_ffffn, 2n ** 64n - 1n),
    [0xffff_ffffn, 2n ** 64n - 1n],
  );
});

verbsTest("inline data needs no registered memory and is taken when posted", async () => {
  using pair = new ReliablePair();
  const { client, server } = pair;
  server.receive(1, 0, 64);
  client.memory.bytes.set([4, 5, 6]);
  client.sends.prepare(0, 1, Opcode.SEND, SendFlag.SIGNALED | SendFlag.INLINE)
    .buffer(0, client.memory.address, 3, 0);
  client.queuePair.postSend(client.sends);
  client.memory.bytes.fill(0);
  await server.succeeded();
  assertEquals([...server.memory.bytes.subarray(0, 3)], [4, 5, 6]);
});

verbsTest("requests complete in their order, and only those that are signaled", async () => {
  using pair = new ReliablePair();
  const { client, server } = pair;
  const { region, sends } = client;
  for (let index = 0; index < 3; index++) server.receive(100 + index, 0, 64);
  const operations = [Opcode.SEND, Opcode.READ, Opcode.WRITE];
  for (let index = 0; index < 9; index++) {
    const signaled = index % 2 === 0 ? SendFlag.SIGNALED : SendFlag.NONE;
    sends.prepare(index, index, operations[index % 3]!, signaled)
      .buffer(index, region.address + THERE, 16, region.lkey);
    if (index % 3 > 0) sends.remote(index, server.region.address + THERE, server.region.rkey);
  }
  client.queuePair.postSend(sends, 0, 9);
  assertEquals((await client.outcomes(5)).map(([wrId]) => wrId), [0, 2, 4, 6, 8]);
  assertEquals((await server.outcomes(3)).map(([wrId]) => wrId), [100, 101, 102]);
  assertEquals(client.queue.poll(), 0);
});

verbsTest("a fenced request waits for the READ before it", async () => {
  using pair = new ReliablePair();
  const { client, server } = pair;
  const { region, sends } = client;
  const sent = randomBytes(4096);
  server.memory.bytes.set(sent);
  sends.prepare(0, 1, Opcode.READ, SendFlag.NONE)
    .buffer(0, region.address, 4096, region.lkey)
    .remote(0, server.region.address, server.region.rkey);
  sends.prepare(1, 2, Opcode.WRITE, SendFlag.SIGNALED | SendFlag.FENCE)
    .buffer(1, region.address, 4096, region.lkey)
    .remote(1, server.region.address + THERE, server.region.rkey);
  client.queuePair.postSend(sends, 0, 2);
  await client.succeeded();
  assertEquals(part(server, THERE, 4096), sent);
});

verbsTest("more READs than may be outstanding at once are all served", async () => {
  using pair = new ReliablePair({ retries: { maxRdAtomic: 1 } });
  const { client, server } = pair;
  const sent = randomBytes(16 * 1024);
  server.memory.bytes.set(sent);
  for (let index = 0; index < 16; index++) {
    client.sends.prepare(index, index, Opcode.READ, SendFlag.SIGNALED)
      .buffer(index, client.region.address + index * 1024, 1024, client.region.lkey)
      .remote(index, server.region.address + index * 1024, server.region.rkey);
  }
  client.queuePair.postSend(client.sends, 0, 16);
  await client.outcomes(16);
  assertEquals(part(client, 0, sent.length), sent);
});
