import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { VerbsError } from "../../lib/rdma/verbs/error.ts";
import { VerbsDevice, verbsDeviceNames } from "../../lib/rdma/verbs/device.ts";
import { TransitionError } from "../../lib/rdma/queue_pair.ts";
import { rxe } from "../provider.ts";
import { ipv4Gid, ReliableEnd, verbsTest } from "../rdma/resources.ts";

verbsTest("verbs: the device, its port and its GIDs are listed", () => {
  assert(verbsDeviceNames().includes(rxe.device));
  using device = new VerbsDevice(rxe.device);
  const port = device.ports()[0]!;
  assertEquals(port.state, "ACTIVE");
  assertEquals(port.activeMtu, 4096);
  assertEquals(port.linkLayer, "Ethernet");
  assert(port.gids.some(({ gid, type }) => gid === `::ffff:${rxe.address}` && type === "RoCE v2"));
  assert(device.limits.maxQueuePairs > 1000);
});

verbsTest("verbs: a call that fails names the call and the error number", () => {
  using device = new VerbsDevice(rxe.device);
  using end = new ReliableEnd(device);
  const error = assertThrows(() => end.protectionDomain[Symbol.dispose](), VerbsError);
  assertEquals([error.call, error.errno], ["ibv_dealloc_pd", "EBUSY"]);
});

verbsTest("verbs: a port that goes down is reported as an event that ends sessions", async () => {
  using device = new VerbsDevice(rxe.device);
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

verbsTest(
  "verbs: while a device looks for a peer that nobody answers for, its thread goes on",
  async () => {
    using device = new VerbsDevice(rxe.device);
    using end = new ReliableEnd(device);
    end.init();
    let turns = 0;
    const turning = setInterval(() => turns += 1, 1);
    const refused = end.queuePair.modifyAside!({
      state: "RTR",
      pathMtu: 1024,
      destQpn: 17,
      rqPsn: 1,
      maxDestRdAtomic: 1,
      minRnrTimer: 12,
      addressVector: {
        dgid: "::ffff:10.9.0.77",
        sgidIndex: ipv4Gid(device).index,
        hopLimit: 64,
        trafficClass: 0,
        flowLabel: 0,
        serviceLevel: 0,
        dlid: 0,
        isGlobal: true,
        port: 1,
      },
    });
    const error = await assertRejects(() => refused, TransitionError, "INIT → RTR");
    clearInterval(turning);
    assert(turns > 3, `${turns} turns`);
    assertEquals([(error.cause as VerbsError).call, end.queuePair.state], [
      "ibv_modify_qp",
      "INIT",
    ]);
  },
);

verbsTest("verbs: a device that is not there is named", () => {
  assertThrows(() => new VerbsDevice("mlx9_9"), Error, "there is no RDMA device mlx9_9");
});
