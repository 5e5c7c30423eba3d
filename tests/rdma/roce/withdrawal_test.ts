import { assert, assertEquals } from "@std/assert";
import { libc } from "../../../ffi/libc.ts";
import { PacketOpcode } from "../../../lib/rdma/roce/opcode.ts";
import { Opcode, SendFlag } from "../../../lib/rdma/work_request.ts";
import { ScriptedScene } from "./scripted_peer.ts";
import { TwoHosts } from "./two_hosts.ts";

// Loaded once for the process: Deno's sanitizers would count it for the test that is first.
libc();

const { READ_REQUEST, WRITE_ONLY, READ_RESPONSE_LAST, ACKNOWLEDGE } = PacketOpcode;

/** Longer than any window. */
const MESSAGE_BYTES = 2 ** 20;
const OURS = 7;
const THEIRS = 0x3c;

for (const [name, operation] of Object.entries({ SEND: Opcode.SEND, WRITE: Opcode.WRITE })) {
  Deno.test(`a ${name} whose region is withdrawn midway ends with IBV_WC_LOC_PROT_ERR, and the peer takes nothing that was not there`, () => {
    using hosts = new TwoHosts();
    const [one, other] = hosts.connect(MESSAGE_BYTES, 1024);
    one.memory.bytes.fill(OURS);
    other.memory.bytes.fill(THEIRS);
    for (const [index, bytes] of [[0, 8], [1, MESSAGE_BYTES]] as const) {
      one.sends.prepare(index, index, operation, SendFlag.SIGNALED)
        .remote(index, other.region.address, other.region.rkey)
        .buffer(index, one.region.address, bytes, one.region.lkey);
      other.receives.prepare(index, index)
        .buffer(index, other.region.address, bytes, other.region.lkey);
    }
    other.queuePair.postReceive(other.receives, 0, 2);
    one.queuePair.postSend(one.sends, 0, 2);

    one.region[Symbol.dispose]();
    hosts.run();

    assertEquals(one.sent.map(({ status }) => status), ["IBV_WC_SUCCESS", "IBV_WC_LOC_PROT_ERR"]);
    assertEquals(one.queuePair.state, "ERR");
    assertEquals(other.received.length, operation === Opcode.SEND ? 1 : 0);
    const taken = other.memory.bytes.indexOf(THEIRS);
    assert(taken > 0 && taken < MESSAGE_BYTES, `${taken} bytes taken`);
    assert(other.memory.bytes.subarray(0, taken).every((byte) => byte === OURS));
    assert(other.memory.bytes.subarray(taken).every((byte) => byte === THEIRS));
  });
}

Deno.test("a READ that is repeated while its region is withdrawn, and afterwards, harms nothing", () => {
  const packets = 256;
  const read = { opcode: READ_REQUEST, dmaLength: packets * 256 };
  using scene = new ScriptedScene();
  const peer = scene.meet(read.dmaLength);
  peer.send(read);
  scene.settle();
  assertEquals(peer.heard.length, packets);

  peer.send(read);
  scene.host.port.progress();
  peer.end.region[Symbol.dispose]();
  scene.settle();
  peer.send(read);
  scene.settle();

  assertEquals(peer.heardOf(READ_RESPONSE_LAST).length, 1);
  assertEquals(scene.host.events, []);
  peer.send({ opcode: WRITE_ONLY, ahead: packets, payloadBytes: 0 });
  scene.settle();
  assertEquals(peer.heardOf(ACKNOWLEDGE).map(({ psn, syndrome }) => [psn, syndrome]), [
    [packets, 0x1f],
  ]);
});
