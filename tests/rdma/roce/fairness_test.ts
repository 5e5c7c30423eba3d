import { assert, assertEquals } from "@std/assert";
import { libc } from "../../../ffi/libc.ts";
import { PacketOpcode } from "../../../lib/rdma/roce/opcode.ts";
import { Opcode, SendFlag } from "../../../lib/rdma/work_request.ts";
import { ScriptedScene } from "./scripted_peer.ts";
import type { SimulatedEnd } from "./simulated_end.ts";
import { NO_FAULTS } from "./simulated_network.ts";
import { TwoHosts } from "./two_hosts.ts";

// Loaded once for the process: Deno's sanitizers would count it for the test that is first.
libc();

const { READ_REQUEST, WRITE_ONLY, SEND_ONLY, ACKNOWLEDGE } = PacketOpcode;

/** READs that take hundreds of turns. */
const READ_BYTES = 2 ** 20;
const READ_PACKETS = READ_BYTES / 256;
const LONG_READS = [0, 1, 2, 3].map((index) => ({
  opcode: READ_REQUEST,
  ahead: index * READ_PACKETS,
  dmaLength: READ_BYTES,
}));

Deno.test("a queue pair that owes one acknowledgement is served beside two whose peers read without end", () => {
  using scene = new ScriptedScene();
  const { port } = scene.host;
  const readers = [scene.meet(READ_BYTES), scene.meet(READ_BYTES)] as const;
  const writer = scene.meet(READ_BYTES);
  for (const reader of readers) reader.send(...LONG_READS);
  port.progress();
  writer.send({ opcode: WRITE_ONLY });

  for (let turn = 0; turn < 3; turn++) port.progress();

  assertEquals(writer.heard.map(({ opcode }) => opcode), [ACKNOWLEDGE]);
  const [one, other] = readers.map(({ heard }) => heard.length) as [number, number];
  assert(
    Math.min(one, other) > 0.4 * (one + other),
    `${one} answers to one, ${other} to the other`,
  );
});

Deno.test("a queue pair sends what it is told to while the peer's READs keep it busy", () => {
  using scene = new ScriptedScene();
  const reader = scene.meet(READ_BYTES);
  const { sends, queuePair, region } = reader.end;
  reader.send(...LONG_READS);
  scene.host.port.progress();

  sends.prepare(0, 1, Opcode.SEND, SendFlag.SIGNALED).buffer(0, region.address, 8, region.lkey);
  queuePair.postSend(sends);
  scene.host.port.progress();

  assertEquals(reader.heardOf(SEND_ONLY).length, 1);
});

Deno.test("queue pairs that wait for the window which they share do not use up their retries", () => {
  using hosts = new TwoHosts({ ...NO_FAULTS, latency: 10, interval: 0.5, loss: 0.01 });
  const ends = Array.from({ length: 16 }, () => hosts.connect(SHARE_BYTES, 1024));
  for (const [one, other] of ends) post(one, other, Opcode.WRITE, 1);

  hosts.run();

  assertEquals(
    ends.map(([{ sent }]) => sent.map(({ status }) => status)),
    ends.map(() => ["IBV_WC_SUCCESS"]),
  );
});

const SHARE_BYTES = 256 * 1024;

/** Of 4.096 µs × 2^14. */
const TIMEOUT = 67.2;
const LIVE_WRITES = 64;

/** Milliseconds that a live queue pair takes for its WRITEs beside dead ones that ask for `operation`, each of which has met silence once. */
function timeBeside(dead: number, operation: Opcode): number {
  using hosts = new TwoHosts({ ...NO_FAULTS, latency: 0.05, interval: 0.02 });
  const { network } = hosts;
  const live = hosts.connect(SHARE_BYTES, 4096);
  for (let count = 0; count < dead; count++) {
    const [one, other] = hosts.connect(SHARE_BYTES, 4096);
    other.queuePair.modify({ state: "ERR" });
    post(one, other, operation, 8);
  }
  const start = (dead + 1) * TIMEOUT;
  network.after(start, () => post(...live, Opcode.WRITE, LIVE_WRITES));
  let end = 0;
  hosts.run(Infinity, () => {
    if (live[0].sent.length === LIVE_WRITES) end ||= network.now;
  });
  const statuses = live[0].sent.map(({ status }) => status);
  assertEquals(statuses, Array(LIVE_WRITES).fill("IBV_WC_SUCCESS"));
  return end - start;
}

for (const [name, operation] of Object.entries({ WRITE: Opcode.WRITE, READ: Opcode.READ })) {
  for (const dead of [1, 5]) {
    Deno.test(`beside queue pairs that are dead in a ${name}, ${dead} of them, a live one keeps half of its throughput at least`, () => {
      const [alone, beside] = [timeBeside(0, operation), timeBeside(dead, operation)];
      assert(beside < 2 * alone, `${beside} ms instead of ${alone}`);
    });
  }
}

for (const [once, atFirst] of [["never", 1], ["once", 64]] as const) {
  Deno.test(`a silent peer that has ${once} answered is sent one packet at a time`, () => {
    const packets = 64;
    const retryCount = 7;
    using scene = new ScriptedScene();
    const peer = scene.meet(packets * 256, { retryCount });
    const { end, heard } = peer;
    if (once === "once") peer.answer();
    end.sends.prepare(0, 1, Opcode.SEND, SendFlag.SIGNALED)
      .buffer(0, end.region.address, end.memory.length, end.region.lkey);
    end.queuePair.postSend(end.sends);
    assertEquals(heard.length, atFirst);

    scene.network.run([scene.host.port], () => end.collect());

    assertEquals(heard.length, atFirst + retryCount);
    assertEquals(end.sent.map(({ status }) => status), ["IBV_WC_RETRY_EXC_ERR"]);
  });
}

Deno.test("queue pairs that are never answered leave others the window to that address", () => {
  using hosts = new TwoHosts({ ...NO_FAULTS, latency: 0.05 });
  const [{ port }, { port: { local: victim } }] = hosts.hosts;
  const { window } = port.reach(victim);
  const { bytes } = window;
  for (let count = 0; count < 64; count++) {
    const [one, other] = hosts.connect(SHARE_BYTES, 4096);
    other.queuePair.modify({ state: "ERR" });
    post(one, other, Opcode.WRITE, 1);
  }
  let room = Infinity;
  hosts.run(Infinity, () => room = Math.min(room, window.room));
  // The first packet of one at a time.
  assert(room >= bytes - 4096, `${room} bytes of room`);
  assertEquals(window.bytes, bytes);
});

/** Posts requests for all that there is. */
function post(from: SimulatedEnd, to: SimulatedEnd, operation: Opcode, count: number): void {
  const { sends, queuePair, region } = from;
  sends.prepare(0, 1, operation, SendFlag.SIGNALED)
    .remote(0, to.region.address, to.region.rkey)
    .buffer(0, region.address, SHARE_BYTES, region.lkey);
  for (let posted = 0; posted < count; posted++) queuePair.postSend(sends);
}
