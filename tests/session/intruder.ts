/** Somebody on the network who reads everything and makes queue pairs fail by packets of their peers. */
import dgram from "node:dgram";
import { once } from "node:events";
import ipaddr from "ipaddr.js";
import type { QueuePairNumbers } from "../../lib/control/messages.ts";
import { addressOfGid, Endpoint } from "../../lib/rdma/roce/endpoint.ts";
import { PacketOpcode } from "../../lib/rdma/roce/opcode.ts";
import type { Client } from "../../lib/services/client.ts";
import { Forger, type Forgery, plain } from "../rdma/roce/forged_packet.ts";

/** PSNs from the agreed one on that packets are made for, as a queue pair takes the next one only. */
const PSNS = 64;

/** A WRITE to memory that nobody has lent (IBTA volume 1, section 9.7.4.1.2): the responder goes to ERR. */
const unlentWrite = { ...plain, opcode: PacketOpcode.WRITE_ONLY };
const nowhere = [{ address: 4096, rkey: 0xbad_bad }];

/** A SEND that nobody has sealed. */
const unsealedSend = { ...plain, opcode: PacketOpcode.SEND_ONLY, payloadBytes: 64 };

export class Intruder implements AsyncDisposable {
  private constructor(private readonly socket: dgram.Socket) {}

  /** @param address from which it sends: that of the peer whom it pretends to be */
  static async at(address: string): Promise<Intruder> {
    const socket = dgram.createSocket("udp4");
    socket.bind(0, address);
    await once(socket, "listening");
    return new Intruder(socket);
  }

  /**
   * Has the server's or the client's present queue pair fail, or with `forge` its session, by a record
   * that does not open.
   *
   * @param sent messages of its peer up to now, about
   */
  attack(
    side: "client" | "server",
    { session: { agreed } }: Client,
    { sent = 0, forge = false } = {},
  ): Promise<void> {
    const packet = forge ? unsealedSend : unlentWrite;
    if (agreed.transport !== "rdma") throw new Error("the session has no queue pair");
    const { local, remote } = agreed;
    return side === "server"
      ? this.#send(packet, remote, local, sent)
      : this.#send(packet, local, remote, sent);
  }

  async #send(
    forgery: Forgery,
    victim: QueuePairNumbers,
    peer: QueuePairNumbers,
    sent: number,
  ): Promise<void> {
    const from = endpointOf(peer.gid, this.socket.address().port);
    const to = endpointOf(victim.gid, victim.udpPort!);
    using forger = new Forger(from, to);
    for (let packet = sent; packet < sent + PSNS; packet++) {
      const knowledge = {
        qpn: victim.qpn,
        requestPsn: (peer.psn + packet) % 2 ** 24,
        acknowledgedPsn: 0,
        regions: nowhere,
      };
      const bytes = forger.make(forgery, knowledge);
      await new Promise<void>((resolve, reject) =>
        this.socket.send(
          bytes,
          to.port,
          ipaddr.fromByteArray([...to.address]).toString(),
          (error) => error ? reject(error) : resolve(),
        )
      );
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.socket.close();
    await once(this.socket, "close");
  }
}

function endpointOf(gid: string, port: number): Endpoint {
  return new Endpoint(addressOfGid(gid), port);
}
