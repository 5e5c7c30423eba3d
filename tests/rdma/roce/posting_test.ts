import { assertEquals, assertThrows } from "@std/assert";
import { libc } from "../../../ffi/libc.ts";
import { RdmaError } from "../../../lib/errors.ts";
import { Opcode, SendFlag } from "../../../lib/rdma/work_request.ts";
import { connectEnds, MAX_INLINE, SimulatedEnd, SimulatedHost } from "./simulated_end.ts";
import { NO_FAULTS, SimulatedNetwork } from "./simulated_network.ts";
import { TwoHosts } from "./two_hosts.ts";

// Loaded once for the process: Deno's sanitizers would count it for the test that is first.
libc();

const answered = {
  READ: Opcode.READ,
  "COMPARE_AND_SWAP": Opcode.COMPARE_AND_SWAP,
  "FETCH_AND_ADD": Opcode.FETCH_AND_ADD,
};

for (const [name, operation] of Object.entries(answered)) {
  Deno.test(`an inline ${name} is refused when it is posted`, () => {
    using hosts = new TwoHosts();
    const [one, other] = hosts.connect(4096, 1024);
    one.sends.prepare(0, 1, operation, SendFlag.SIGNALED | SendFlag.INLINE);
    if (operation === Opcode.READ) one.sends.remote(0, other.region.address, other.region.rkey);
    else one.sends.atomic(0, other.region.address, other.region.rkey, 1n);
    one.sends.buffer(0, one.region.address, 8, one.region.lkey);

    const error = assertThrows(() => one.queuePair.postSend(one.sends), RdmaError);
    hosts.run();

    assertEquals(error.code, "inline_answer");
    assertEquals(one.sent, []);
    assertEquals(one.queuePair.state, "RTS");
  });
}

Deno.test("what is posted before a request that is refused is sent", () => {
  using hosts = new TwoHosts();
  const [one, other] = hosts.connect(4096, 1024);
  for (const [index, bytes] of [8, 8, MAX_INLINE + 1].entries()) {
    one.sends.prepare(index, index, Opcode.WRITE, SendFlag.SIGNALED | SendFlag.INLINE)
      .remote(index, other.region.address, other.region.rkey)
      .buffer(index, one.region.address, bytes, one.region.lkey);
  }

  assertThrows(() => one.queuePair.postSend(one.sends, 0, 3), RdmaError);
  hosts.run();

  assertEquals(one.sent.map(({ wrId, status }) => [wrId, status]), [
    [0, "IBV_WC_SUCCESS"],
    [1, "IBV_WC_SUCCESS"],
  ]);
});

Deno.test("a queue pair that is brought to RESET serves another peer afterwards", () => {
  using resources = new DisposableStack();
  const network = new SimulatedNetwork(NO_FAULTS, 1);
  const hosts = [1, 2, 3].map((number) =>
    resources.use(new SimulatedHost(network, number, "IPv4"))
  );
  const [one, ...peers] = hosts.map((host) => resources.use(new SimulatedEnd(host, 4096, 1))) as [
    SimulatedEnd,
    ...SimulatedEnd[],
  ];
  const run = () =>
    network.run(
      hosts.map(({ port }) => port),
      () => [one, ...peers].forEach((end) => end.collect()),
    );

  for (const peer of peers) {
    connectEnds(one, peer, 1024);
    exchange(one, peer);
    run();
    for (const end of [one, peer]) {
      assertEquals(end.sent.splice(0).map(({ status }) => status), ["IBV_WC_SUCCESS"]);
      assertEquals(end.received.splice(0).map(({ status }) => status), ["IBV_WC_SUCCESS"]);
    }
    one.queuePair.modify({ state: "RESET" });
  }
});

/** Lets each end send the other a message. */
function exchange(one: SimulatedEnd, other: SimulatedEnd): void {
  for (const { receives, region, queuePair } of [one, other]) {
    receives.prepare(0, 1).buffer(0, region.address, 64, region.lkey);
    queuePair.postReceive(receives);
  }
  for (const { sends, region, queuePair } of [one, other]) {
    sends.prepare(0, 1, Opcode.SEND, SendFlag.SIGNALED).buffer(0, region.address, 8, region.lkey);
    queuePair.postSend(sends);
  }
}
