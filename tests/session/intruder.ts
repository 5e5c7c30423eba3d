/** Somebody on the network who reads everything and makes queue pairs fail by packets of their peers. */
import { PacketOpcode } from "../../lib/rdma/roce/opcode.ts";
import { psnAfter } from "../../lib/rdma/roce/psn.ts";
import type { Client } from "../../lib/services/client.ts";
import { PacketAttacker, reth } from "../attacks/packet_attacker.ts";
import { provider } from "../provider.ts";
import { atOtherEnd } from "../vm/other_end.ts";

/** PSNs from the agreed one on that packets are made for, as a queue pair takes the next one only. */
const PSNS = 64;

/** A WRITE to memory that nobody has lent (IBTA volume 1, section 9.7.4.1.2): the responder goes to ERR. */
export const unlentWrite = {
  opcode: PacketOpcode.WRITE_ONLY,
  body: new Uint8Array([...reth(0x7000_0000_0000, 0x1234, 4), 1, 2, 3, 4]),
};

/** A SEND that nobody has sealed. */
const unsealedSend = { opcode: PacketOpcode.SEND_ONLY, body: new Uint8Array(64) };

/**
 * Has the server's or the client's present queue pair fail, or with `forge` its session, by a record
 * that does not open.
 *
 * @param sent messages of its peer up to now, about
 */
export function intrude(
  side: "client" | "server",
  { session: { agreed } }: Client,
  { sent = 0, forge = false } = {},
): void {
  if (agreed.transport !== "rdma") throw new Error("the session has no queue pair");
  const { local, remote } = agreed;
  const [victim, peer] = side === "server" ? [remote, local] : [local, remote];
  const packet = forge ? unsealedSend : unlentWrite;
  using attacker = atOtherEnd(() => new PacketAttacker(victim, provider.address));
  attacker.sendTogether(Array.from({ length: PSNS }, (_, index) => ({
    ...packet,
    qpn: victim.qpn,
    psn: psnAfter(peer.psn, sent + index),
  })));
}
