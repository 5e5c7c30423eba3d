import { assertEquals } from "@std/assert";
import { delay } from "@std/async/delay";
import { libc } from "../../../ffi/libc.ts";
import { PacketOpcode } from "../../../lib/rdma/roce/opcode.ts";
import { Pump } from "../../../lib/rdma/roce/pump.ts";
import { Opcode, SendFlag } from "../../../lib/rdma/work_request.ts";
import { type ScriptedPeer, ScriptedScene } from "./scripted_peer.ts";
import type { SimulatedEnd, SimulatedHost } from "./simulated_end.ts";
import { NO_FAULTS } from "./simulated_network.ts";

// Loaded once for the process: Deno's sanitizers would count it for the test that is first.
libc();

const { READ_REQUEST, READ_RESPONSE_LAST, SEND_FIRST, SEND_ONLY } = PacketOpcode;

/** More than the port sends at once, and more than any window. */
const LONG_BYTES = 2 ** 20;

/** Acknowledgements are awaited for ever: no deadline but the wire's is there to wake a pump. */
const FOR_EVER = { timeout: 0 };

Deno.test("what poll() leaves undone is done by the pump", async () => {
  using scene = new ScriptedScene();
  const peer = scene.meet(LONG_BYTES, FOR_EVER);
  peer.send({ opcode: READ_REQUEST, dmaLength: LONG_BYTES });
  using _pump = start(scene.host);
  const answered = hears(peer, READ_RESPONSE_LAST);

  peer.end.collect();

  await answered;
});

const ends = {
  "goes to ERR": (end: SimulatedEnd) => end.queuePair.modify({ state: "ERR" }),
  "is disposed of": (end: SimulatedEnd) => end.queuePair[Symbol.dispose](),
};

for (const [how, end] of Object.entries(ends)) {
  Deno.test(`when a queue pair with a full window ${how}, the pump lets the next one send`, async () => {
    using scene = new ScriptedScene();
    const one = scene.meet(LONG_BYTES, FOR_EVER);
    const other = scene.meet(LONG_BYTES, FOR_EVER);
    one.answer();
    send(one.end, LONG_BYTES);
    scene.settle();
    send(other.end, 8);
    scene.settle();
    assertEquals(one.heardOf(SEND_FIRST).length, 1);
    assertEquals(other.heard, []);
    using _pump = start(scene.host);
    const sent = hears(other, SEND_ONLY);

    end(one.end);

    await sent;
  });
}

Deno.test("a pump sleeps while the wire takes nothing, though more is to be sent", async () => {
  let refusals = 0;
  const faults = {
    ...NO_FAULTS,
    get refusal() {
      refusals += 1;
      return 1;
    },
  };
  using scene = new ScriptedScene(faults);
  // The clock of the pump is the process's: the wire is tried again much later.
  scene.network.now = performance.now() + 1e6;
  const peer = scene.meet(LONG_BYTES, FOR_EVER);
  using _pump = start(scene.host);

  send(peer.end, LONG_BYTES);
  assertEquals(scene.host.port.hasReady, false);
  const before = refusals;
  await delay(0);

  assertEquals(refusals, before);
});

/** Only what wakes the pump sets it going: nothing arrives at the wire of its own. */
function start({ port, wire }: SimulatedHost): Pump {
  const pump = new Pump(port, wire);
  port.onWork = () => pump.wake();
  return pump;
}

function send({ sends, region, queuePair }: SimulatedEnd, bytes: number): void {
  sends.prepare(0, 1, Opcode.SEND, SendFlag.SIGNALED).buffer(0, region.address, bytes, region.lkey);
  queuePair.postSend(sends);
}

/** Resolves when a peer is sent such a packet. */
function hears(peer: ScriptedPeer, opcode: number): Promise<void> {
  return new Promise((resolve) => {
    peer.onHeard = (packet) => {
      if (packet.opcode === opcode) resolve();
    };
  });
}
