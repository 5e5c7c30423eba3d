/** Attacks that end a queue pair. */
import { deadline } from "@std/async/deadline";
import { PacketOpcode } from "../../lib/rdma/roce/opcode.ts";
import { psnAfter } from "../../lib/rdma/roce/psn.ts";
import { provider } from "../provider.ts";
import { attackTest } from "./attack.ts";
import { unreplaced } from "./careless_path.ts";
import { PacketAttacker, reth } from "./packet_attacker.ts";
import { System, type SystemOptions } from "./system.ts";

attackTest<SystemOptions>({
  rows: ["A2"],
  attack: "drives a queue pair to the error state by one forged WRITE",
  countermeasure: "another queue pair with fresh numbers takes its place over the TLS session",
  against: {},
  without: {
    instead: "a server to which that ends the session",
    against: { dataPath: unreplaced },
  },
  async mount(options) {
    await using system = await System.start(options);
    await using victim = await system.client();
    const { session, messages } = victim;
    const { agreed } = session;
    if (agreed.transport !== "rdma") throw new Error("not over a queue pair");
    const { local, remote } = agreed;
    using attacker = new PacketAttacker(remote, provider.address);
    attacker.send({
      opcode: PacketOpcode.WRITE_ONLY,
      qpn: remote.qpn,
      // The victim has sent its proof, and nothing since.
      psn: psnAfter(local.psn, 1),
      body: new Uint8Array([...reth(0x7000_0000_0000, 0x1234, 4), 1, 2, 3, 4]),
    });
    const ask = () => messages.ask("ECHO", new Uint8Array(1000));
    const served = deadline(session.repeating(ask), 8000).then(() => true, () => false);
    if (!await served) return true;
    const fresh = session.agreed.transport === "rdma" ? session.agreed.local : local;
    if (fresh.qpn === local.qpn) throw new Error("the queue pair has not failed");
    return false;
  },
});
