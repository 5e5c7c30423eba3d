/** Attacks by packets that somebody on the wire forges into a connection. */
import { join } from "node:path";
import { delay } from "@std/async/delay";
import { Counter, Counters } from "../../lib/rdma/roce/counters.ts";
import type { RoceDevice } from "../../lib/rdma/roce/device.ts";
import { headerBytesOf, PacketOpcode } from "../../lib/rdma/roce/opcode.ts";
import { psnAfter } from "../../lib/rdma/roce/psn.ts";
import { PsnSource } from "../../lib/security/psn.ts";
import { encodeGrantedChunk } from "../../lib/services/file_protocol.ts";
import { MessageKind } from "../../lib/session/service.ts";
import { provider } from "../provider.ts";
import type { HostileClient } from "../session/hostile_client.ts";
import { type Attack, attackTest } from "./attack.ts";
import { SharedDomainDevice, WindowedDevice } from "./careless_device.ts";
import { ExposedSession } from "./exposed_session.ts";
import { grant, read, withdraw, write } from "./lent_memory.ts";
import { fragment, PacketAttacker } from "./packet_attacker.ts";
import { PredictableRandom } from "./predictable_random.ts";
import { System, type SystemOptions } from "./system.ts";

const secret = crypto.getRandomValues(new Uint8Array(64));
const hidden = crypto.getRandomValues(new Uint8Array(64));

/** What a forged answer bears, and what one bears that the victim has asked for. */
const FORGED = 77;
const ASKED = 78;

/** Lets the client ask, and tells whether the next answer that it gets is this one. */
async function isAnswered(client: HostileClient, id: number): Promise<boolean> {
  client.sendFragment({ kind: MessageKind.ECHO, id: ASKED, payload: new Uint8Array(8) });
  return (await client.message(MessageKind.ANSWER)).id === id;
}

attackTest<SystemOptions>({
  rows: ["5.1.2", "V6", "A1"],
  attack: "forges an answer with the right QPN, and guesses that PSNs began at 0",
  countermeasure: "random PSNs on both sides, agreed in TLS",
  against: {},
  without: {
    instead: "PSNs that begin at 0",
    against: { psns: new PsnSource(() => 0) },
  },
  async mount(options) {
    await using system = await System.start(options);
    await using exposed = await ExposedSession.open(system);
    const { client: victim, toClient } = exposed;
    const { qpn } = victim.numbers.local;
    const body = fragment(MessageKind.ANSWER, FORGED, secret);
    for (let psn = 0; psn < 16; psn++) {
      toClient.send({ opcode: PacketOpcode.SEND_ONLY, qpn, psn, body });
    }
    return await isAnswered(victim, FORGED);
  },
});

/** What is taken out where numbers are to be predictable. */
interface Numbers extends SystemOptions {
  readonly random?: () => Disposable;
}

const drawn: Numbers = {};
const predictable = { random: () => new PredictableRandom() };

/** A session whose messages are sealed, and what ends one. */
const sealed: SystemOptions = { seal: "required" };
const unsealed = { instead: "a session that is not sealed", against: { seal: "off" } } as const;

/** Whether the client gets this answer; false once its session has ended for this reason and no other. */
async function isFooled(
  system: System,
  client: HostileClient,
  id: number,
  reason: string,
): Promise<boolean> {
  const answered = client.message(MessageKind.ANSWER).then((arrival) => arrival.id === id);
  const ended = system.ended(client).then((actual) => {
    if (actual !== reason) throw new Error(`the session ended for ${actual}, not ${reason}`);
    return false;
  });
  return await Promise.race([answered, ended]);
}

attackTest<SystemOptions>({
  rows: ["5.1.2", "V8", "A1"],
  attack: "forges a question with the right QPN, PSN and sequence number",
  countermeasure: "sealed records: a bad tag ends the session, and no byte of it is used",
  against: sealed,
  without: unsealed,
  async mount(options) {
    await using system = await System.start(options);
    await using exposed = await ExposedSession.open(system);
    const { client: victim, toServer } = exposed;
    const { qpn } = victim.numbers.remote;
    const question = fragment(MessageKind.ECHO, FORGED, secret);
    // After the proof, whose number was 0.
    const record = [...new Uint8Array(7), 1, ...question, ...new Uint8Array(16)];
    const body = options.seal === "off" ? question : Uint8Array.from(record);
    const { nextPsn: psn } = victim;
    toServer.send({ opcode: PacketOpcode.SEND_ONLY, qpn, psn, body });
    return await isFooled(system, victim, FORGED, "record_forged");
  },
});

attackTest<SystemOptions>({
  rows: ["5.1.2", "V8"],
  attack: "replays a question, with the right QPN and PSN",
  countermeasure: "sealed records: each has its sequence number, and is opened once",
  against: sealed,
  without: unsealed,
  async mount(options) {
    await using system = await System.start(options);
    await using exposed = await ExposedSession.open(system);
    const { client: victim, toServer } = exposed;
    const { qpn } = victim.numbers.remote;
    if (!await isAnswered(victim, ASKED)) throw new Error("the victim itself is not answered");
    const body = victim.lastRecord.subarray(0, options.seal === "off" ? 24 : 48);
    const { nextPsn: psn } = victim;
    toServer.send({ opcode: PacketOpcode.SEND_ONLY, qpn, psn, body });
    return await isFooled(system, victim, ASKED, "record_replayed");
  },
});

attackTest<SystemOptions>({
  rows: ["5.2", "V8"],
  attack: "stands in the packets' way, and changes a message",
  countermeasure: "sealed records",
  against: sealed,
  without: unsealed,
  async mount(options) {
    // The lowest byte of the question's number; a record's first eight bytes are its own.
    const place = options.seal === "off" ? 7 : 15;
    const change = (packet: Uint8Array) => {
      if (packet.length > 600) packet[headerBytesOf(packet[0]!) + place]! ^= ASKED ^ FORGED;
    };
    await using system = await System.start(options);
    await using exposed = await ExposedSession.open(system, change);
    const { client } = exposed;
    client.sendFragment({ kind: MessageKind.ECHO, id: ASKED, payload: new Uint8Array(1000) });
    return await isFooled(system, client, FORGED, "record_forged");
  },
});

/** Has the client put a file of one packet; it has all that it is to do without an answer. */
async function putFile(
  client: HostileClient,
  path: string,
  content: Uint8Array<ArrayBuffer>,
): Promise<void> {
  const size = content.length;
  const { window, rkey } = client;
  const transfer = 1;
  await client.request("files", { operation: "put", transfer, path, size: `${size}`, window });
  await client.message(MessageKind.FILE_BUFFER_FREE);
  const chunk = { buffer: 0, length: size, offset: 0, size };
  client.fillBuffer(transfer, chunk, content);
  const payload = encodeGrantedChunk({ ...chunk, rkey });
  client.sendFragment({ kind: MessageKind.FILE_CHUNK, payload });
  client.sendFragment({ kind: MessageKind.FILE_END, payload: await sha256(content) });
}

async function sha256(content: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", content));
}

/** Changes a file of one packet, and what is sent at its end into the hash of what it has become. */
function changeFile(at: number, hash: Uint8Array): (packet: Uint8Array) => void {
  return (packet) => {
    const payload = packet.subarray(headerBytesOf(packet[0]!));
    if (packet[0] === PacketOpcode.READ_RESPONSE_ONLY) payload[at]! ^= 1;
    if (packet[0] === PacketOpcode.SEND_ONLY && payload[0] === MessageKind.FILE_END) {
      payload.set(hash, 16);
    }
  };
}

attackTest<SystemOptions>({
  rows: ["5.2", "V8"],
  attack: "stands in the packets' way, and changes a file and its hash",
  countermeasure: "sealed records: no byte of a forged one is written",
  against: sealed,
  without: unsealed,
  async mount(options) {
    const file = new Uint8Array(1000);
    // A record's first eight bytes are its number, which would be found wrong before its tag.
    const change = changeFile(options.seal === "off" ? 0 : 8, await sha256(file.with(0, 1)));
    await using system = await System.start(options);
    await using exposed = await ExposedSession.open(system, change);
    const { client } = exposed;
    await putFile(client, "far", file);
    // It is answered with the hash of what the server has, too late.
    const reply = await client.reply().catch(() => undefined);
    if (reply?.body.error) throw new Error(reply.body.error.text);
    if (!reply) await system.sessionEnded("record_forged");
    const names = [...Deno.readDirSync(system.root)].map(({ name }) => name);
    return names.includes("far") && (await Deno.readFile(join(system.root, "far")))[0] === 1;
  },
});

attackTest<SystemOptions>({
  rows: ["5.3", "V8"],
  attack: "stands in the packets' way, and reads messages and files",
  countermeasure: "sealed records",
  against: sealed,
  without: unsealed,
  async mount(options) {
    let seen = "";
    const read = (packet: Uint8Array) => void (seen += packet.toHex());
    await using system = await System.start(options);
    await using exposed = await ExposedSession.open(system, read);
    const { client } = exposed;
    client.sendFragment({ kind: MessageKind.ECHO, payload: secret });
    await client.message(MessageKind.ANSWER);
    await putFile(client, "far", hidden);
    const { error } = (await client.reply()).body;
    if (error) throw new Error(error.text);
    return seen.includes(secret.toHex()) || seen.includes(hidden.toHex());
  },
});

/** A port that counts nothing, until it is disposed. */
function uncounted(): Disposable {
  const { count } = Counters.prototype;
  Counters.prototype.count = () => {};
  return { [Symbol.dispose]: () => void (Counters.prototype.count = count) };
}

const watched = [
  Counter.UNKNOWN_QUEUE_PAIR,
  Counter.MALFORMED_PACKETS,
  Counter.DUPLICATE_REQUEST,
  Counter.OUT_OF_SEQUENCE,
  Counter.RESP_REMOTE_ACCESS_ERRORS,
];

// Of a device's numbers `verbseal devices` says what is left to guess (lib/rdma/predictability.ts),
// and what a device counts is the kernel's.
if (provider.name === "roce") {
  attackTest<Numbers>({
    rows: ["V5"],
    attack: "predicts the QPN of the next session from those of two of its own",
    countermeasure: "the embedded provider draws QPNs at random",
    against: drawn,
    without: { instead: "numbers that follow each other", against: predictable },
    async mount({ random, ...options }) {
      await using system = await System.start(options);
      using _random = random?.();
      const qpns: number[] = [];
      for (let count = 0; count < 3; count++) {
        using client = await system.hostile();
        qpns.push(client.numbers.remote.qpn);
      }
      const [first, second, victims] = qpns as [number, number, number];
      return victims === second + (second - first);
    },
  });

  attackTest<Numbers>({
    rows: ["V1", "V2", "V3", "V4"],
    attack: "predicts another session's rkey from two of its own, and READs with it",
    countermeasure: "random rkeys, and a protection domain for each session",
    against: drawn,
    without: {
      instead: "keys that follow each other, and one protection domain",
      against: { ...predictable, device: (device) => new SharedDomainDevice(device) },
    },
    async mount({ random, ...options }) {
      await using system = await System.start(options);
      using _random = random?.();
      using attacker = await system.hostile();
      using victim = await system.hostile();
      await write(victim, await grant(victim, "write", 0, 64), secret);
      await withdraw(victim);
      const keys: number[] = [];
      for (let count = 0; count < 2; count++) {
        keys.push((await grant(attacker, "read", 0, 64)).rkey);
        await withdraw(attacker);
      }
      const [first, second] = keys as [number, number];
      const { address } = await grant(victim, "read", 0, 64);
      const rkey = (second + (second - first)) >>> 0;
      return await read(attacker, { address, rkey }, 64) !== undefined;
    },
  });

  attackTest<() => Disposable>({
    rows: ["V7"],
    attack: "guesses QPNs, PSNs and rkeys without being noticed",
    countermeasure: "each kind of packet that an honest peer does not send is counted",
    against: () => ({ [Symbol.dispose]() {} }),
    without: { instead: "a port that counts nothing", against: uncounted },
    async mount(counting) {
      await using system = await System.start();
      using _counting = counting();
      using attacker = await system.hostile();
      const { remote } = attacker.numbers;
      const { qpn } = remote;
      const next = attacker.nextPsn;
      using packets = new PacketAttacker(remote, provider.address);
      const opcode = PacketOpcode.SEND_ONLY;
      packets.send({ opcode, qpn: qpn ^ 1, psn: next });
      packets.send({ opcode: 0xff, qpn, psn: next });
      packets.send({ opcode, qpn, psn: psnAfter(next, -1) });
      packets.send({ opcode, qpn, psn: psnAfter(next, 1) });
      const { address, rkey } = await grant(attacker, "read", 0, 64);
      await read(attacker, { address, rkey: rkey ^ 1 }, 64);
      const { values } = (system.device as RoceDevice).counters;
      return watched.some((counter) => values[counter] === 0);
    },
  });
}

/** What the embedded provider is, and what a device is to be as well as it can be told to. */
const uninvalidated: Pick<Attack<SystemOptions>, "countermeasure" | "against" | "without"> =
  provider.name === "roce"
    ? {
      countermeasure: "rkeys are of one session, and no peer invalidates any",
      against: {},
      without: { impossible: "the embedded provider has no remote invalidation" },
    }
    : {
      countermeasure: "grants by registration, which no peer can end",
      against: {},
      without: {
        instead: "memory windows of rdma_rxe",
        against: { device: (device) => new WindowedDevice(device) },
      },
    };

attackTest<SystemOptions>({
  rows: ["6.4.5"],
  attack: "invalidates another session's rkey by a SEND with Invalidate",
  ...uninvalidated,
  async mount(options) {
    await using system = await System.start(options);
    using victim = await system.hostile();
    const granted = await grant(victim, "read", 0, 64);
    await using attacker = await ExposedSession.open(system);
    const { numbers: { remote: { qpn } }, nextPsn: psn } = attacker.client;
    const body = new Uint8Array(new ArrayBuffer(4));
    new DataView(body.buffer).setUint32(0, granted.rkey);
    attacker.toServer.send({ opcode: SEND_ONLY_WITH_INVALIDATE, qpn, psn, body });
    // On a device what goes over the wire may be slower than what does not.
    await delay(200);
    return await read(victim, granted, 64) === undefined;
  },
});

/** Of the transports of later versions (IBTA volume 1, table 38); this program does not know it. */
const SEND_ONLY_WITH_INVALIDATE = 0x17;
