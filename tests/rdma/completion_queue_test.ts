/** How completions are waited for, of both providers. */
import { assertEquals } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { delay } from "@std/async/delay";
import { openDevice } from "../../lib/rdma/provider.ts";
import { Opcode, SendFlag } from "../../lib/rdma/work_request.ts";
import { provider } from "../provider.ts";
import { allAccess, ReliableEnd, ReliablePair, verbsTest } from "./resources.ts";

/** Posts WRITEs of no bytes. */
function writeNothing({ sends, queuePair }: ReliableEnd, peer: ReliableEnd, count: number): void {
  for (let index = 0; index < count; index++) {
    sends.prepare(index, index, Opcode.WRITE, SendFlag.SIGNALED)
      .remote(index, peer.region.address, peer.region.rkey);
  }
  queuePair.postSend(sends, 0, count);
}

verbsTest("waiting for completions ends when the queue is disposed", async () => {
  using device = openDevice(provider.device);
  const queue = device.createCompletionQueue(4);
  const waiting = queue.next();
  queue[Symbol.dispose]();
  assertEquals(await waiting, 0);
});

verbsTest("a completion wakes who has waited for long", async () => {
  using pair = new ReliablePair();
  const { client, server } = pair;
  for (let round = 0; round < 3; round++) {
    server.receive(round, 0, 64);
    const waiting = server.outcomes(1);
    await delay(100); // longer than anybody polls
    client.sends.prepare(0, 1, Opcode.SEND, SendFlag.NONE)
      .buffer(0, client.region.address, 1, client.region.lkey);
    client.queuePair.postSend(client.sends);
    assertEquals(await deadline(waiting, 5000), [[round, "IBV_WC_SUCCESS"]]);
  }
});

verbsTest("all completions are found, however many come at once", async () => {
  using pair = new ReliablePair();
  const { client, server } = pair;
  const ids = Array.from({ length: 48 }, (_, index) => index % 16);
  for (let round = 0; round < 10; round++) {
    for (let part = 0; part < 3; part++) writeNothing(client, server, 16);
    assertEquals((await client.outcomes(48)).map(([wrId]) => wrId), ids);
  }
  assertEquals(client.queue.poll(), 0);
});

verbsTest("a completion queue that overflows is reported, and ends what uses it", async () => {
  using device = openDevice(provider.device);
  using client = new ReliableEnd(device, 65536, allAccess, 4);
  using server = new ReliableEnd(device);
  for (const [end, peer] of [[client, server], [server, client]] as const) {
    end.init();
    end.readyToReceive(peer);
    end.readyToSend();
  }
  using stop = new DisposableStack();
  const listening = stop.adopt(new AbortController(), (controller) => controller.abort());
  const event = Promise.withResolvers<unknown>();
  device.onAsyncEvent(({ name, completionQueue, fatal }) => {
    if (name === "IBV_EVENT_CQ_ERR") event.resolve([completionQueue, fatal]);
  }, listening.signal);
  writeNothing(client, server, 16);
  assertEquals(await deadline(event.promise, 5000), [client.queue.address, true]);
});
