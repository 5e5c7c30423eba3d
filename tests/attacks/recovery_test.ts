/** Attacks that end a queue pair. */
import { join } from "node:path";
import { deadline } from "@std/async/deadline";
import { PacketOpcode } from "../../lib/rdma/roce/opcode.ts";
import { psnAfter } from "../../lib/rdma/roce/psn.ts";
import { randomFile, sha256 } from "../program.ts";
import { provider } from "../provider.ts";
import { Intruder } from "../session/intruder.ts";
import { attackTest } from "./attack.ts";
import { unreplaced } from "./careless_path.ts";
import { ExposedSession } from "./exposed_session.ts";
import { PacketAttacker, reth } from "./packet_attacker.ts";
import { System, type SystemOptions } from "./system.ts";

/** A WRITE of four bytes to memory that nobody lent. */
const FATAL = {
  opcode: PacketOpcode.WRITE_ONLY,
  body: new Uint8Array([...reth(0x7000_0000_0000, 0x1234, 4), 1, 2, 3, 4]),
};

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
    toServer.send({ ...FATAL, qpn: client.numbers.remote.qpn, psn: client.nextPsn });
    const offered = client.hear("REQUEUE").then(() => false);
    offered.catch(() => {}); // the server hangs up where it offers none
    return await Promise.race([offered, system.ended(client).then(() => true)]);
  },
});

// The program's own client has its queue pair on the port of the provider, out of an attacker's way on a device.
if (provider.name === "roce") {
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
      const { agreed } = session;
      if (agreed.transport !== "rdma") throw new Error("not over a queue pair");
      const { local, remote } = agreed;
      using attacker = new PacketAttacker(remote, provider.address);
      // The victim has sent its proof, and nothing since.
      attacker.send({ ...FATAL, qpn: remote.qpn, psn: psnAfter(local.psn, 1) });
      const ask = () => messages.ask("ECHO", new Uint8Array(1000));
      const served = deadline(session.repeating(ask), 8000).then(() => true, () => false);
      if (!await served) return true;
      const fresh = session.agreed.transport === "rdma" ? session.agreed.local : local;
      if (fresh.qpn === local.qpn) throw new Error("the queue pair has not failed");
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
      await using intruder = await Intruder.at(provider.address);
      await using victim = await system.client();
      const { session, files } = victim;
      const near = join(system.root, "near");
      await randomFile(near, FILE_BYTES);
      let attack: Promise<void> | undefined;
      const progress = (bytes: number) => {
        if (bytes > FILE_BYTES / 4) attack ??= intruder.attack("server", victim, { sent: 4 });
      };
      const put = session.during(files.put(session, near, "far", progress));
      const moved = await put.catch(() => undefined);
      await attack;
      return moved?.sha256 !== await sha256(near);
    },
  });
}

const FILE_BYTES = 2 ** 24;
