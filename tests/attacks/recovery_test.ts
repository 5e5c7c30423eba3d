/** Attacks that end a queue pair. */
import { join } from "node:path";
import { deadline } from "@std/async/deadline";
import { headerBytesOf, ICRC_BYTES, PacketOpcode } from "../../lib/rdma/roce/opcode.ts";
import { psnAfter } from "../../lib/rdma/roce/psn.ts";
import { inSessions } from "../../lib/cli/reconnect.ts";
import type { Client } from "../../lib/services/client.ts";
import { Download, Upload } from "../../lib/services/unfinished_transfers.ts";
import { randomFile, sha256 } from "../program.ts";
import { provider } from "../provider.ts";
import { intrude, unlentWrite } from "../session/intruder.ts";
import { atOtherEnd } from "../vm/other_end.ts";
import { attackTest } from "./attack.ts";
import { unreplaced } from "./careless_path.ts";
import { ExposedSession } from "./exposed_session.ts";
import { PacketAttacker } from "./packet_attacker.ts";
import { tapped } from "./wire_tap.ts";
import { System, type SystemOptions } from "./system.ts";

const unreplacing = {
  instead: "a server to which that ends the session",
  against: { dataPath: unreplaced },
};

attackTest<SystemOptions>({
  rows: ["A2"],
  attack: "drives the server's queue pair to the error state by one forged WRITE",
  countermeasure: "the server offers another queue pair with fresh numbers",
  against: {},
  without: unreplacing,
  async mount(options) {
    await using system = await System.start(options);
    await using exposed = await ExposedSession.open(system);
    const { client, toServer } = exposed;
    toServer.send({ ...unlentWrite, qpn: client.numbers.remote.qpn, psn: client.nextPsn });
    const offered = client.hear("REQUEUE").then(() => false);
    offered.catch(() => {}); // the server hangs up where it offers none
    return await Promise.race([offered, system.ended(client).then(() => true)]);
  },
});

/** The numbers of a client's queue pair that there are now. */
function numbersOf({ session: { agreed } }: Client) {
  if (agreed.transport !== "rdma") throw new Error("not over a queue pair");
  return agreed;
}

attackTest<SystemOptions>({
  rows: ["A2"],
  attack: "keeps a client from being served by one forged WRITE",
  countermeasure: "another queue pair takes the place of one that failed, over the TLS session",
  against: {},
  without: unreplacing,
  async mount(options) {
    await using system = await System.start(options);
    await using victim = await system.client();
    const { session, messages } = victim;
    const { local, remote } = numbersOf(victim);
    using attacker = atOtherEnd(() => new PacketAttacker(remote, provider.address));
    // The victim has sent its proof, and nothing since.
    attacker.send({ ...unlentWrite, qpn: remote.qpn, psn: psnAfter(local.psn, 1) });
    const ask = () => messages.ask("ECHO", new Uint8Array(1000));
    const served = deadline(session.repeating(ask), 8000).then(() => true, () => false);
    if (!await served) return true;
    if (numbersOf(victim).local.epoch === 0) throw new Error("the queue pair has not failed");
    return false;
  },
});

attackTest<SystemOptions>({
  rows: ["A2"],
  attack: "ends a put by driving its queue pair to the error state",
  countermeasure: "the transfer goes on from where it was, with another queue pair",
  against: { seal: "required" },
  without: { ...unreplacing, against: { seal: "required", ...unreplacing.against } },
  async mount(options) {
    await using system = await System.start(options);
    await using victim = await system.client();
    const { session, files } = victim;
    const near = join(system.root, "near");
    await randomFile(near, FILE_BYTES);
    let attacked = false;
    const progress = (bytes: number) => {
      if (attacked || bytes <= FILE_BYTES / 4) return;
      attacked = true;
      intrude("server", victim, { sent: 4 });
    };
    const put = session.during(files.put(session, near, "far", progress));
    const moved = await put.catch(() => undefined);
    if (moved?.sha256 !== await sha256(near)) return true;
    if (numbersOf(victim).local.epoch === 0) throw new Error("the queue pair has not failed");
    return false;
  },
});

const FILE_BYTES = 2 ** 23;

type Tampering = "forged" | "replayed";

/** Once it is armed, makes one record on its way another one: with a bit changed, or one that came by before. */
class Tamperer {
  armed = false;
  done = false;
  /** Records that came by, by their length. */
  readonly #earlier = new Map<number, Uint8Array>();
  /** Sequence of the record that came last. */
  #last = -1;

  constructor(private readonly tampering: Tampering) {}

  readonly look = (packet: Uint8Array): void => {
    const opcode = packet[0]!;
    if (opcode !== PacketOpcode.SEND_ONLY || this.done) return;
    const record = packet.subarray(headerBytesOf(opcode), -ICRC_BYTES);
    const sequence = new DataView(record.buffer, record.byteOffset).getUint32(4);
    // Of what the transport repeats the receiver has had the first already.
    if (sequence <= this.#last) return;
    this.#last = sequence;
    const other = this.armed ? this.#otherFor(record) : undefined;
    this.#earlier.set(record.length, record.slice());
    if (!other) return;
    record.set(other);
    this.done = true;
  };

  #otherFor(record: Uint8Array): Uint8Array | undefined {
    if (this.tampering === "replayed") return this.#earlier.get(record.length);
    const last = record.length - 1;
    return record.with(last, record[last]! ^ 1);
  }
}

/** A file that is put or got while somebody tampers with a message on its way to one side. */
interface Transfer {
  readonly operation: "put" | "get";
  readonly to: "client" | "server";
  readonly tampering: Tampering;
  /** For which the client tries to come back. */
  readonly seconds: number;
}

/** Whether the file arrives all the same, the second session going on where the first one was. */
async function arrives({ operation, to, tampering, seconds }: Transfer): Promise<boolean> {
  const tamperer = new Tamperer(tampering);
  await using system = await System.start({
    seal: "required",
    dataPath: tapped(tamperer.look, to),
  });
  const [near, far] = [join(system.root, "near"), join(system.root, "far")];
  const [source, target] = operation === "put" ? [near, far] : [far, near];
  await randomFile(source, FILE_BYTES);
  const moved: number[] = [];
  const progress = (bytes: number) => {
    moved.push(bytes);
    tamperer.armed ||= bytes > FILE_BYTES / 4;
  };
  using unfinished = operation === "put"
    ? new Upload(near, "far", progress)
    : new Download("far", near, progress);
  const { signal } = new AbortController();
  const open = (_signal: AbortSignal, resume?: string) => system.client({ resume });
  const moving = inSessions({ open, signal, seconds }, async ({ session, files }, losses) => {
    await files.move(session, unfinished);
    return losses;
  });
  const losses = await moving.catch(() => undefined);
  const found = system.log.lines("reason", "detail").join().includes(`record_${tampering}`);
  if (!tamperer.done || !found) throw new Error("nobody has found what was tampered with");
  const resumed = moved.every((bytes, index) => index === 0 || bytes >= moved[index - 1]!);
  return losses === 1 && resumed && await sha256(target) === await sha256(source);
}

const tamperings: readonly [Tampering, attack: string, countermeasure: string][] = [
  [
    "forged",
    "ends a put or get by changing a message on its way to either side",
    "the client comes back, and the transfer goes on from where it was",
  ],
  [
    "replayed",
    "ends a put or get by a message that it has seen before",
    "no byte of it is used; the client comes back, and the transfer goes on",
  ],
];

for (const [tampering, attack, countermeasure] of tamperings) {
  attackTest<Pick<Transfer, "seconds">>({
    ...{ rows: ["5.1.2"], attack, countermeasure },
    provider: "roce",
    against: { seconds: 20 },
    without: { instead: "a client that does not come back", against: { seconds: 0 } },
    async mount({ seconds }) {
      for (const operation of ["put", "get"] as const) {
        for (const to of ["client", "server"] as const) {
          if (!await arrives({ operation, to, tampering, seconds })) return true;
        }
      }
      return false;
    },
  });
}
