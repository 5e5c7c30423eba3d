/** Life of queue pairs and of what they are made of, of both providers. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { RdmaError } from "../../lib/errors.ts";
import { MAX_24_BITS } from "../../lib/rdma/address.ts";
import { openDevice } from "../../lib/rdma/provider.ts";
import { TransitionError } from "../../lib/rdma/queue_pair.ts";
import { Opcode, SendFlag } from "../../lib/rdma/work_request.ts";
import { provider } from "../provider.ts";
import { ReliableEnd, ReliablePair, verbsTest } from "./resources.ts";

verbsTest("a device has an active port with a GID of its address", () => {
  using device = openDevice(provider.device);
  const [port] = device.ports();
  assertEquals([port?.number, port?.state], [1, "ACTIVE"]);
  const own = port!.gids.filter(({ gid }) => gid === `::ffff:${provider.address}`);
  assert(own.some(({ type }) => type === "RoCE v2"));
  assertEquals(device.provider, provider.name);
});

verbsTest("a queue pair has exactly the PSNs it was given", () => {
  using pair = new ReliablePair();
  for (const [end, peer] of [[pair.client, pair.server], [pair.server, pair.client]] as const) {
    const { sqPsn, rqPsn, destQpn, state } = end.queuePair.query();
    assertEquals({ sqPsn, rqPsn, destQpn, state }, {
      sqPsn: end.psn,
      rqPsn: peer.psn,
      destQpn: peer.queuePair.qpn,
      state: "RTS",
    });
  }
});

verbsTest("PSNs advance by a packet each, and begin again at 0 after 2^24", async () => {
  using pair = new ReliablePair();
  const { client, server } = pair;
  const psn = MAX_24_BITS - 1;
  for (const end of [client, server]) {
    end.queuePair.modify({ state: "RESET" });
    end.init();
  }
  client.readyToReceive(server);
  server.readyToReceive(client, 1024, psn);
  client.readyToSend({ sqPsn: psn });
  server.readyToSend();
  client.memory.bytes.fill(7);
  client.sends.prepare(0, 1, Opcode.WRITE, SendFlag.SIGNALED)
    .buffer(0, client.region.address, 5000, client.region.lkey)
    .remote(0, server.region.address, server.region.rkey);
  client.queuePair.postSend(client.sends);
  await client.succeeded();
  assertEquals(client.queuePair.query().sqPsn, 3);
  assertEquals(server.queuePair.query().rqPsn, 3);
  assert(server.memory.bytes.subarray(0, 5000).every((byte) => byte === 7));
});

verbsTest("a queue pair can be reset and brought up again with other PSNs", async () => {
  using pair = new ReliablePair();
  const { client, server } = pair;
  client.receive(1, 0, 64);
  for (const end of [client, server]) end.queuePair.modify({ state: "ERR" });
  await client.outcomes(1);
  for (const end of [client, server]) {
    end.queuePair.modify({ state: "RESET" });
    end.init();
  }
  const other = (psn: number) => (psn + 2 ** 20) & MAX_24_BITS;
  client.readyToReceive(server, 1024, other(server.psn));
  server.readyToReceive(client, 1024, other(client.psn));
  for (const end of [client, server]) end.readyToSend({ sqPsn: other(end.psn) });
  server.receive(2, 0, 64);
  client.sends.prepare(0, 3, Opcode.SEND, SendFlag.SIGNALED)
    .buffer(0, client.region.address, 64, client.region.lkey);
  client.queuePair.postSend(client.sends);
  assertEquals(await server.outcomes(1), [[2, "IBV_WC_SUCCESS"]]);
  assertEquals(await client.outcomes(1), [[3, "IBV_WC_SUCCESS"]]);
});

verbsTest("numbers of queue pairs are valid and differ", () => {
  using device = openDevice(provider.device);
  using stack = new DisposableStack();
  const qpns = Array.from(
    { length: 20 },
    () => stack.use(new ReliableEnd(device)).queuePair.qpn,
  );
  assertEquals(new Set(qpns).size, 20);
  assert(qpns.every((qpn) => qpn >= 2 && qpn <= MAX_24_BITS), `${qpns}`);
});

verbsTest("a value that the device does not accept names the transition", () => {
  using device = openDevice(provider.device);
  using end = new ReliableEnd(device);
  const error = assertThrows(
    () => end.queuePair.modify({ state: "INIT", pkeyIndex: 0, port: 9, access: [] }),
    TransitionError,
    "port",
  );
  assertEquals([error.from, error.to], ["RESET", "INIT"]);
  assertEquals(end.queuePair.query().state, "RESET");
});

verbsTest("objects refuse to be used after their end, and end once", () => {
  using device = openDevice(provider.device);
  const end = new ReliableEnd(device);
  end[Symbol.dispose]();
  end[Symbol.dispose]();
  for (
    const use of [
      () => end.queuePair.query(),
      () => end.queuePair.postSend(end.sends),
      () => end.queuePair.postReceive(end.receives),
      () => end.queue.poll(),
      () => end.protectionDomain.registerMemory(end.memory, []),
    ]
  ) {
    assertEquals(assertThrows(use, RdmaError).code, "disposed");
  }
});

verbsTest("what others are made of refuses to end before them, and says so", () => {
  using device = openDevice(provider.device);
  using end = new ReliableEnd(device);
  assertThrows(() => end.protectionDomain[Symbol.dispose](), RdmaError);
});
