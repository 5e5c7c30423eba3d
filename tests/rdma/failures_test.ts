/** How work requests fail, of both providers. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { delay } from "@std/async/delay";
import { RdmaError } from "../../lib/errors.ts";
import { MAX_24_BITS } from "../../lib/rdma/address.ts";
import type { Access } from "../../lib/rdma/memory_region.ts";
import { Opcode, SendFlag } from "../../lib/rdma/work_request.ts";
import { provider } from "../provider.ts";
import { allAccess, ReliablePair, verbsTest } from "./resources.ts";

/**
 * Statuses by the specification (IBTA volume 1, sections 9.9.2 and 9.9.3), which the embedded
 * provider keeps to, and where rdma_rxe has others.
 */
const deviations = provider.name === "verbs"
  ? { localKey: "IBV_WC_LOC_QP_OP_ERR", tooLong: ["IBV_WC_REM_OP_ERR", "IBV_WC_LOC_QP_OP_ERR"] }
  : { localKey: "IBV_WC_LOC_PROT_ERR", tooLong: ["IBV_WC_REM_INV_REQ_ERR", "IBV_WC_LOC_LEN_ERR"] };

type OneSided = typeof Opcode.READ | typeof Opcode.WRITE;

/** Where a request reaches to in the peer's memory, when not to the begin of its region. */
interface Target {
  readonly offset?: number;
  readonly rkey?: number;
}

/** Posts a request on 64 bytes of the peer's memory. */
function reach({ client, server }: ReliablePair, opcode: OneSided, target: Target = {}): void {
  const { offset = 0, rkey = server.region.rkey } = target;
  client.sends.prepare(0, 1, opcode, SendFlag.SIGNALED)
    .buffer(0, client.region.address, 64, client.region.lkey)
    .remote(0, server.region.address + offset, rkey);
  client.queuePair.postSend(client.sends);
}

/** Posts a SEND of so many bytes. */
function send({ client }: ReliablePair, length = 64): void {
  client.sends.prepare(0, 1, Opcode.SEND, SendFlag.SIGNALED)
    .buffer(0, client.region.address, length, client.region.lkey);
  client.queuePair.postSend(client.sends);
}

/** Another region over the server's memory. */
function region(
  { server }: ReliablePair,
  stack: DisposableStack,
  access: Access[],
): { readonly rkey: number } {
  return stack.use(server.protectionDomain.registerMemory(server.memory, access));
}

const forbidden: [
  what: string,
  opcode: OneSided,
  aim: (pair: ReliablePair, stack: DisposableStack) => Target,
][] = [
  ["a WRITE that ends behind the region", Opcode.WRITE, () => ({ offset: 65536 - 63 })],
  ["a WRITE that begins before the region", Opcode.WRITE, () => ({ offset: -1 })],
  ["a READ that ends behind the region", Opcode.READ, () => ({ offset: 65536 - 63 })],
  [
    "a WRITE with a key that is nobody's",
    Opcode.WRITE,
    ({ server }) => ({ rkey: server.region.rkey ^ 0x55 }),
  ],
  [
    "a WRITE to a region for READ",
    Opcode.WRITE,
    (pair, stack) => region(pair, stack, ["REMOTE_READ"]),
  ],
  [
    "a READ from a region for WRITE",
    Opcode.READ,
    (pair, stack) => region(pair, stack, ["LOCAL_WRITE", "REMOTE_WRITE"]),
  ],
  [
    "a WRITE to a region of another protection domain",
    Opcode.WRITE,
    ({ device, server }, stack) => {
      const domain = stack.use(device.allocateProtectionDomain());
      return stack.use(domain.registerMemory(server.memory, allAccess));
    },
  ],
  ["a WRITE to a region that has ended", Opcode.WRITE, (pair) => {
    using stack = new DisposableStack();
    const { rkey } = region(pair, stack, [...allAccess]);
    return { rkey };
  }],
];

for (const [what, opcode, aim] of forbidden) {
  verbsTest(`${what} ends both queue pairs, and no byte is changed`, async () => {
    using pair = new ReliablePair();
    using stack = new DisposableStack();
    const { client, server } = pair;
    client.memory.bytes.fill(7);
    server.receive(9, 0, 64);
    reach(pair, opcode, aim(pair, stack));
    assertEquals(await client.status(), "IBV_WC_REM_ACCESS_ERR");
    assertEquals(client.queuePair.query().state, "ERR");
    assertEquals(await server.status(), "IBV_WC_WR_FLUSH_ERR");
    assertEquals(server.queuePair.query().state, "ERR");
    assert(server.memory.bytes.every((byte) => byte === 0));
    assert(client.memory.bytes.every((byte) => byte === 7));
  });
}

verbsTest("a queue pair that allows no WRITE refuses it, whatever the region allows", async () => {
  using pair = new ReliablePair();
  pair.server.queuePair.modify({ state: "RTS", access: ["REMOTE_READ"] });
  reach(pair, Opcode.READ);
  await pair.client.succeeded();
  reach(pair, Opcode.WRITE);
  assertEquals(await pair.client.status(), "IBV_WC_REM_INV_REQ_ERR");
});

const local: [
  what: string,
  status: string,
  attempt: (pair: ReliablePair, stack: DisposableStack) => void,
][] = [
  ["with a key that is nobody's", deviations.localKey, ({ client }) => {
    client.sends.prepare(0, 1, Opcode.SEND, SendFlag.SIGNALED)
      .buffer(0, client.region.address, 64, client.region.lkey ^ 0x55);
  }],
  ["that ends behind its region", "IBV_WC_LOC_PROT_ERR", ({ client }) => {
    client.sends.prepare(0, 1, Opcode.SEND, SendFlag.SIGNALED)
      .buffer(0, client.region.address + 65536 - 63, 64, client.region.lkey);
  }],
  ["that a READ may not change", "IBV_WC_LOC_PROT_ERR", ({ client, server }, stack) => {
    const region = stack.use(client.protectionDomain.registerMemory(client.memory, []));
    client.sends.prepare(0, 1, Opcode.READ, SendFlag.SIGNALED)
      .buffer(0, region.address, 64, region.lkey)
      .remote(0, server.region.address, server.region.rkey);
  }],
];

for (const [what, status, attempt] of local) {
  verbsTest(`a local buffer ${what} is ${status}`, async () => {
    using pair = new ReliablePair();
    using stack = new DisposableStack();
    const { client, server } = pair;
    server.memory.bytes.fill(7);
    server.receive(9, 0, 4096);
    attempt(pair, stack);
    client.queuePair.postSend(client.sends);
    assertEquals<string>(await client.status(), status);
    assertEquals(client.queuePair.query().state, "ERR");
    assert(client.memory.bytes.every((byte) => byte === 0));
    assert(server.memory.bytes.every((byte) => byte === 7));
  });
}

verbsTest("an atomic on an address that is not a multiple of 8 is refused", async () => {
  using pair = new ReliablePair();
  const { client, server } = pair;
  client.sends.prepare(0, 1, Opcode.FETCH_AND_ADD, SendFlag.SIGNALED)
    .buffer(0, client.region.address, 8, client.region.lkey)
    .atomic(0, server.region.address + 4, server.region.rkey, 1n);
  const post = () => client.queuePair.postSend(client.sends);
  // rdma_rxe does not even send it.
  if (provider.name === "verbs") assertThrows(post, RdmaError, "EINVAL");
  else {
    post();
    assertEquals(await client.status(), "IBV_WC_REM_INV_REQ_ERR");
  }
  assert(server.memory.bytes.every((byte) => byte === 0));
});

verbsTest("a SEND larger than the receive is refused, and both ends learn it", async () => {
  using pair = new ReliablePair();
  pair.server.receive(9, 0, 63);
  send(pair);
  const statuses = [await pair.client.status(), await pair.server.status()];
  assertEquals<string[]>(statuses, deviations.tooLong);
  assertEquals(pair.server.queuePair.query().state, "ERR");
  assertEquals(pair.server.memory.bytes[63], 0);
});

verbsTest(
  "a SEND without a receive is retried, then ends in IBV_WC_RNR_RETRY_EXC_ERR",
  async () => {
    using pair = new ReliablePair();
    send(pair);
    assertEquals(await pair.client.status(), "IBV_WC_RNR_RETRY_EXC_ERR");
    assertEquals(pair.client.queuePair.query().state, "ERR");
    assertEquals(pair.server.queuePair.query().state, "RTS");
  },
);

verbsTest("a SEND waits for a receive for ever when told to, and then arrives once", async () => {
  using pair = new ReliablePair({ retries: { rnrRetry: 7 } });
  const { client, server } = pair;
  send(pair);
  await delay(50); // a fact of the network: nobody tells when the SEND has been refused
  assertEquals(client.queue.poll(), 0);
  server.receive(8, 0, 64);
  server.receive(9, 0, 64);
  await client.succeeded();
  assertEquals(await server.outcomes(1), [[8, "IBV_WC_SUCCESS"]]);
  assertEquals(server.queue.poll(), 0);
});

verbsTest("a peer that does not answer ends in IBV_WC_RETRY_EXC_ERR", async () => {
  using pair = new ReliablePair();
  pair.server.queuePair.modify({ state: "RESET" });
  reach(pair, Opcode.WRITE);
  assertEquals(await pair.client.status(), "IBV_WC_RETRY_EXC_ERR");
});

verbsTest("a peer that expects another PSN takes nothing", async () => {
  using pair = new ReliablePair();
  const { client, server } = pair;
  server.queuePair.modify({ state: "RESET" });
  server.init();
  server.readyToReceive(client, 1024, (client.psn - 2 ** 20) & MAX_24_BITS);
  server.readyToSend();
  client.memory.bytes.fill(7);
  reach(pair, Opcode.WRITE);
  assertEquals(await client.status(), "IBV_WC_RETRY_EXC_ERR");
  assert(server.memory.bytes.every((byte) => byte === 0));
});

verbsTest("what was posted behind a request that fails is flushed, in its order", async () => {
  using pair = new ReliablePair();
  const { client, server } = pair;
  client.memory.bytes.fill(7);
  for (let index = 0; index < 4; index++) {
    const rkey = server.region.rkey ^ (index === 1 ? 0x55 : 0);
    client.sends.prepare(index, index, Opcode.WRITE, SendFlag.SIGNALED)
      .buffer(index, client.region.address, 64, client.region.lkey)
      .remote(index, server.region.address + index * 64, rkey);
  }
  client.queuePair.postSend(client.sends, 0, 4);
  assertEquals(await client.outcomes(4), [
    [0, "IBV_WC_SUCCESS"],
    [1, "IBV_WC_REM_ACCESS_ERR"],
    [2, "IBV_WC_WR_FLUSH_ERR"],
    [3, "IBV_WC_WR_FLUSH_ERR"],
  ]);
  assert(server.memory.bytes.subarray(64).every((byte) => byte === 0));
});

verbsTest("in state ERR all requests are flushed, those before it and those after", async () => {
  using pair = new ReliablePair();
  const { client } = pair;
  client.receive(7, 0, 64);
  client.receive(8, 0, 64);
  client.queuePair.modify({ state: "ERR" });
  const flushed = (...ids: number[]) => ids.map((wrId) => [wrId, "IBV_WC_WR_FLUSH_ERR"]);
  assertEquals(await client.outcomes(2), flushed(7, 8));
  reach(pair, Opcode.WRITE);
  assertEquals(await client.outcomes(1), flushed(1));
});

verbsTest("a send queue that is full refuses more", () => {
  using pair = new ReliablePair({ retries: { timeout: 0 } });
  pair.server.queuePair.modify({ state: "RESET" });
  assertThrows(
    () => {
      for (let count = 0; count < 1000; count++) reach(pair, Opcode.WRITE);
    },
    RdmaError,
  );
});
