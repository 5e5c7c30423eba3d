import { assert, assertEquals, assertThrows } from "@std/assert";
import { DisposedError, VerbsError } from "../../lib/rdma/verbs/error.ts";
import { Opcode, SendFlag } from "../../lib/rdma/work_request.ts";
import { TransitionError } from "../../lib/rdma/queue_pair.ts";
import { VerbsDevice, verbsDeviceNames } from "../../lib/rdma/verbs/device.ts";
import { type WorkCompletionError } from "../../lib/rdma/completion_queue.ts";
import { ReliableEnd, ReliablePair, rxe, verbsTest } from "./resources.ts";

/** Waits for one completion that must have succeeded. */
async function completed(end: ReliableEnd): Promise<void> {
  assertEquals(await end.queue.next(), 1);
  assertEquals(end.queue.completions.status(0), "IBV_WC_SUCCESS");
}

verbsTest("verbs: the device, its port and its GIDs are listed", () => {
  assert(verbsDeviceNames().includes(rxe));
  using device = new VerbsDevice(rxe);
  const port = device.ports()[0]!;
  assertEquals(port.state, "ACTIVE");
  assertEquals(port.activeMtu, 4096);
  assertEquals(port.linkLayer, "Ethernet");
  assert(port.gids.some(({ gid, type }) => gid === "::ffff:10.9.0.1" && type === "RoCE v2"));
  assert(device.limits.maxQueuePairs > 1000);
});

verbsTest("verbs: a queue pair has exactly the PSNs it was given", () => {
  using pair = new ReliablePair();
  const { sqPsn, rqPsn, destQpn, state } = pair.client.queuePair.query();
  assertEquals({ sqPsn, rqPsn, destQpn, state }, {
    sqPsn: pair.client.psn,
    rqPsn: pair.server.psn,
    destQpn: pair.server.queuePair.qpn,
    state: "RTS",
  });
});

verbsTest("verbs: SEND with immediate arrives in a posted receive", async () => {
  using pair = new ReliablePair();
  const { client, server } = pair;
  server.receives.prepare(0, 77).buffer(0, server.region.address, 4096, server.region.lkey);
  server.queuePair.postReceive(server.receives);
  client.memory.bytes.set([1, 2, 3]);
  client.sends.prepare(0, 5, Opcode.SEND_WITH_IMMEDIATE, SendFlag.SIGNALED)
    .buffer(0, client.region.address, 3, client.region.lkey).immediate(0, 0xdeadbeef);
  client.queuePair.postSend(client.sends);
  await completed(client);
  assertEquals(client.queue.completions.wrId(0), 5);
  await completed(server);
  const { completions } = server.queue;
  assertEquals(completions.wrId(0), 77);
  assert(completions.isReceive(0) && completions.hasImmediate(0));
  assertEquals(completions.immediate(0), 0xdeadbeef);
  assertEquals(completions.byteLength(0), 3);
  assertEquals([...server.memory.bytes.subarray(0, 4)], [1, 2, 3, 0]);
});

verbsTest("verbs: WRITE, WRITE with immediate and READ move memory without the peer", async () => {
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
  await completed(server);
  assertEquals(server.queue.completions.immediate(0), 42);
  await completed(client);
  assertEquals(client.queue.completions.wrId(0), 2);
  assert(server.memory.bytes.subarray(100, 8292).every((byte) => byte === 7));
  assertEquals(server.memory.bytes[8292], 0);

  server.memory.bytes.subarray(0, 4096).fill(9);
  client.sends.prepare(0, 3, Opcode.READ, SendFlag.SIGNALED)
    .buffer(0, client.region.address + 16384, 4096, client.region.lkey)
    .remote(0, server.region.address, server.region.rkey);
  client.queuePair.postSend(client.sends);
  await completed(client);
  assert(client.memory.bytes.subarray(16384, 16384 + 4096).every((byte) => byte === 9));
});

verbsTest("verbs: atomics change the peer's memory and give its former value", async () => {
  using pair = new ReliablePair();
  const { client, server } = pair;
  const theirs = new DataView(server.memory.bytes.buffer);
  const ours = new DataView(client.memory.bytes.buffer);
  theirs.setBigUint64(0, 40n, true);
  client.sends.prepare(0, 1, Opcode.FETCH_AND_ADD, SendFlag.SIGNALED)
    .buffer(0, client.region.address, 8, client.region.lkey)
    .atomic(0, server.region.address, server.region.rkey, 2n);
  client.queuePair.postSend(client.sends);
  await completed(client);
  assertEquals([ours.getBigUint64(0, true), theirs.getBigUint64(0, true)], [40n, 42n]);
  client.sends.prepare(0, 2, Opcode.COMPARE_AND_SWAP, SendFlag.SIGNALED)
    .buffer(0, client.region.address, 8, client.region.lkey)
    .atomic(0, server.region.address, server.region.rkey, 42n, 1n);
  client.queuePair.postSend(client.sends);
  await completed(client);
  assertEquals([ours.getBigUint64(0, true), theirs.getBigUint64(0, true)], [42n, 1n]);
});

verbsTest("verbs: inline data needs no registered memory and is taken when posted", async () => {
  using pair = new ReliablePair();
  const { client, server } = pair;
  server.receives.prepare(0, 1).buffer(0, server.region.address, 64, server.region.lkey);
  server.queuePair.postReceive(server.receives);
  client.memory.bytes.set([4, 5, 6]);
  client.sends.prepare(0, 1, Opcode.SEND, SendFlag.SIGNALED | SendFlag.INLINE)
    .buffer(0, client.memory.address, 3, 0);
  client.queuePair.postSend(client.sends);
  client.memory.bytes.fill(0);
  await completed(server);
  assertEquals([...server.memory.bytes.subarray(0, 3)], [4, 5, 6]);
});

verbsTest(
  "verbs: access outside of a region ends the queue pair with the status named",
  async () => {
    using pair = new ReliablePair();
    const { client, server } = pair;
    client.sends.prepare(0, 1, Opcode.WRITE, SendFlag.SIGNALED)
      .buffer(0, client.region.address, 8, client.region.lkey)
      .remote(0, server.region.address + server.region.length - 4, server.region.rkey);
    client.queuePair.postSend(client.sends);
    assertEquals(await client.queue.next(), 1);
    const error: WorkCompletionError = client.queue.completions.error(0);
    assertEquals(error.status, "IBV_WC_REM_ACCESS_ERR");
    assertEquals(client.queuePair.query().state, "ERR");
  },
);

verbsTest("verbs: a peer that does not answer ends in IBV_WC_RETRY_EXC_ERR", async () => {
  using pair = new ReliablePair();
  const { client, server } = pair;
  server.queuePair.modify({ state: "RESET" });
  client.sends.prepare(0, 1, Opcode.WRITE, SendFlag.SIGNALED)
    .buffer(0, client.region.address, 8, client.region.lkey)
    .remote(0, server.region.address, server.region.rkey);
  client.queuePair.postSend(client.sends);
  assertEquals(await client.queue.next(), 1);
  assertEquals(client.queue.completions.status(0), "IBV_WC_RETRY_EXC_ERR");
});

verbsTest("verbs: what the device refuses names the transition and the attributes", () => {
  using device = new VerbsDevice(rxe);
  using end = new ReliableEnd(device);
  const error = assertThrows(
    () => end.queuePair.modify({ state: "INIT", pkeyIndex: 0, port: 9, access: [] }),
    TransitionError,
  );
  assertEquals([error.from, error.to], ["RESET", "INIT"]);
  assert(error.message.includes("EINVAL") && error.message.includes("port"), error.message);
});

verbsTest("verbs: objects refuse to be used after their end, and end once", () => {
  using device = new VerbsDevice(rxe);
  const end = new ReliableEnd(device);
  end[Symbol.dispose]();
  end[Symbol.dispose]();
  assertThrows(() => end.queuePair.query(), DisposedError);
  assertThrows(() => end.queuePair.postSend(end.sends), DisposedError);
  assertThrows(() => end.queue.poll(), DisposedError);
});

verbsTest("verbs: a domain with a queue pair in it refuses to end and says why", () => {
  using device = new VerbsDevice(rxe);
  using end = new ReliableEnd(device);
  const error = assertThrows(() => end.protectionDomain[Symbol.dispose](), VerbsError);
  assertEquals(error.errno, "EBUSY");
});

verbsTest("verbs: waiting for completions ends when the queue is disposed", async () => {
  using device = new VerbsDevice(rxe);
  const queue = device.createCompletionQueue(4);
  const waiting = queue.next();
  queue[Symbol.dispose]();
  assertEquals(await waiting, 0);
});

verbsTest("verbs: a port that goes down is reported as an event that ends sessions", async () => {
  using device = new VerbsDevice(rxe);
  using stop = new DisposableStack();
  const listening = stop.adopt(new AbortController(), (controller) => controller.abort());
  const event = Promise.withResolvers<string>();
  device.onAsyncEvent(({ name, port, fatal }) => {
    if (name === "IBV_EVENT_PORT_ERR") event.resolve(`${name} ${port} ${fatal}`);
  }, listening.signal);
  const link = async (state: string) =>
    await new Deno.Command("ip", { args: ["link", "set", "v0", state] }).output();
  await link("down");
  assertEquals(await event.promise, "IBV_EVENT_PORT_ERR 1 true");
  await link("up");
});

verbsTest("verbs: a device that is not there is named", () => {
  assertThrows(() => new VerbsDevice("mlx9_9"), Error, "there is no RDMA device mlx9_9");
});
