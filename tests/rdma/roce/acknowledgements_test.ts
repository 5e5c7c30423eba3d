import { assertEquals } from "@std/assert";
import { libc } from "../../../ffi/libc.ts";
import { NakCode, Syndrome } from "../../../lib/rdma/roce/headers.ts";
import { PacketOpcode } from "../../../lib/rdma/roce/opcode.ts";
import { Opcode, SendFlag } from "../../../lib/rdma/work_request.ts";
import { ScriptedScene } from "./scripted_peer.ts";
import type { SimulatedEnd } from "./simulated_end.ts";
import { NO_FAULTS } from "./simulated_network.ts";
import { TwoHosts } from "./two_hosts.ts";

// Loaded once for the process: Deno's sanitizers would count it for the test that is first.
libc();

const {
  SEND_ONLY,
  READ_REQUEST,
  FETCH_ADD,
  READ_RESPONSE_ONLY,
  ATOMIC_ACKNOWLEDGE,
  ACKNOWLEDGE,
} = PacketOpcode;

Deno.test("an RNR NAK that waits behind READ answers becomes an acknowledgement when the SEND has been executed meanwhile", () => {
  const packets = 256;
  using scene = new ScriptedScene();
  const peer = scene.meet(packets * 256);
  peer.send({ opcode: READ_REQUEST, dmaLength: packets * 256 }, { ahead: packets });
  scene.host.port.progress();
  assertEquals(peer.heardOf(ACKNOWLEDGE), []);

  postReceives(peer.end, 1);
  peer.send({ ahead: packets });
  scene.settle();

  assertEquals(peer.end.received.map(({ status }) => status), ["IBV_WC_SUCCESS"]);
  const [acknowledgement, ...others] = peer.heardOf(ACKNOWLEDGE);
  assertEquals([acknowledgement?.syndrome, acknowledgement?.psn], [Syndrome.ACK, packets]);
  assertEquals(others, []);
});

/** NAKs that ask for the packet again, and how a request ends when no retry is left. */
const naks = {
  "an RNR NAK": [Syndrome.RNR_NAK | 1, "IBV_WC_RNR_RETRY_EXC_ERR"],
  "a NAK for a sequence error": [
    Syndrome.NAK | NakCode.PSN_SEQUENCE_ERROR,
    "IBV_WC_RETRY_EXC_ERR",
  ],
} as const;

for (const [what, [syndrome, status]] of Object.entries(naks)) {
  Deno.test(`copies of ${what} that come at once cost one retry`, () => {
    const copies = Array(5).fill({ opcode: ACKNOWLEDGE, syndrome });
    using scene = new ScriptedScene();
    const peer = scene.meet(4096, { retryCount: 1, rnrRetry: 1 });
    postSends(peer.end, 1);

    peer.send(...copies);
    scene.settle();
    assertEquals(peer.end.sent, []);
    assertEquals(peer.heardOf(SEND_ONLY).length, 2);

    peer.send(...copies);
    scene.settle();
    assertEquals(peer.end.sent.map((sent) => sent.status), [status]);
    assertEquals(peer.heardOf(SEND_ONLY).length, 2);
  });
}

Deno.test("an answer bears the MSN of its request, whatever was executed before it went out", () => {
  using scene = new ScriptedScene();
  const peer = scene.meet(4096);
  postReceives(peer.end, 2);
  peer.send(
    { opcode: READ_REQUEST, dmaLength: 8 },
    { opcode: FETCH_ADD, ahead: 1 },
    { ahead: 2 },
    { ahead: 3 },
  );
  scene.settle();

  assertEquals(peer.heard.map(({ opcode, psn, msn }) => [opcode, psn, msn]), [
    [READ_RESPONSE_ONLY, 0, 1],
    [ATOMIC_ACKNOWLEDGE, 1, 2],
    [ACKNOWLEDGE, 3, 4],
  ]);
});

Deno.test("a packet, the one before it and a copy of it that arrive at once are acknowledged without a timeout", () => {
  const faults = { ...NO_FAULTS };
  using hosts = new TwoHosts(faults);
  const { network } = hosts;
  const [one, other] = hosts.connect(4096, 1024);
  postReceives(other, 3);
  postSends(one, 1); // to who has never answered one packet is sent at a time
  hosts.run(1);
  faults.loss = 1;
  const packets: Uint8Array<ArrayBuffer>[] = [];
  network.onPacket = (bytes) => packets.push(bytes);
  postSends(one, 2);
  assertEquals(packets.length, 2);

  const [first, second] = packets as [Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>];
  faults.loss = 0;
  for (const bytes of [second, first, second]) {
    network.carry(one.host.port.local, other.host.port.local, bytes);
  }
  // The timeout is of 67 ms.
  hosts.run(2);

  assertEquals(one.sent.map(({ status }) => status), Array(3).fill("IBV_WC_SUCCESS"));
  assertEquals(other.received.length, 3);
});

function postReceives({ receives, region, queuePair }: SimulatedEnd, count: number): void {
  for (let index = 0; index < count; index++) {
    receives.prepare(index, index).buffer(index, region.address, 64, region.lkey);
  }
  queuePair.postReceive(receives, 0, count);
}

function postSends({ sends, region, queuePair }: SimulatedEnd, count: number): void {
  for (let index = 0; index < count; index++) {
    sends.prepare(index, index, Opcode.SEND, SendFlag.SIGNALED)
      .buffer(index, region.address, 8, region.lkey);
  }
  queuePair.postSend(sends, 0, count);
}
