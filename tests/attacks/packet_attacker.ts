/** An attacker on the wire: RoCEv2 packets with any number in them and an ICRC that fits. */
import type { QueuePairNumbers } from "../../lib/control/messages.ts";
import {
  addressOfGid,
  Destination,
  Endpoint,
  ROCE_UDP_PORT,
} from "../../lib/rdma/roce/endpoint.ts";
import { writeBth } from "../../lib/rdma/roce/headers.ts";
import { BTH_BYTES, ICRC_BYTES } from "../../lib/rdma/roce/opcode.ts";
import { UdpWire } from "../../lib/rdma/roce/udp_wire.ts";
import { TransmitBatch } from "../../lib/rdma/roce/wire.ts";

/** What a packet says. */
export interface AttackPacket {
  /** Any of 256. */
  readonly opcode: number;
  readonly qpn: number;
  readonly psn: number;
  readonly ackRequested?: boolean;
  /** What follows the base transport header: further headers and the payload. */
  readonly body?: Uint8Array;
}

/** Sends packets to one queue pair's port, from an address that may be its peer's. */
export class PacketAttacker implements Disposable {
  readonly #resources = new DisposableStack();
  readonly #wire: UdpWire;
  readonly #batch: TransmitBatch;
  readonly #destination: Destination;

  /**
   * @param victim whose queue pair is attacked
   * @param from an address of this host
   */
  constructor(victim: Pick<QueuePairNumbers, "gid" | "udpPort">, from: string) {
    const source = addressOfGid(`::ffff:${from}`);
    this.#wire = this.#resources.use(new UdpWire(source, 0));
    this.#batch = this.#resources.use(new TransmitBatch(1));
    const target = new Endpoint(addressOfGid(victim.gid), victim.udpPort ?? ROCE_UDP_PORT);
    this.#destination = new Destination(this.#wire.local, target);
  }

  send(packet: AttackPacket): void {
    this.#batch.clear();
    this.#add(this.#batch, packet);
    if (this.#wire.send(this.#batch, 0) !== 1) throw new Error("the packet was not sent");
  }

  /** Sends packets of one size in one go: they arrive together, or not at all. */
  sendTogether(packets: readonly AttackPacket[]): void {
    using batch = new TransmitBatch(this.#wire.maxSegments);
    if (!packets.every((packet) => this.#add(batch, packet))) throw new Error("there are too many");
    if (this.#wire.send(batch, 0) !== batch.count) throw new Error("the packets were not sent");
  }

  /** Sends a packet again and again, at each call as many times as the system takes at once; gives that number. */
  flood(packet: AttackPacket): () => number {
    const batch = this.#resources.use(new TransmitBatch(this.#wire.maxSegments));
    while (this.#add(batch, packet));
    return () => this.#wire.send(batch, 0) === batch.count ? batch.packets : 0;
  }

  /** False when the batch is full. */
  #add(batch: TransmitBatch, packet: AttackPacket): boolean {
    const { opcode, qpn, psn, ackRequested = true, body = new Uint8Array(0) } = packet;
    const padded = body.length + (-body.length & 3);
    const bytes = BTH_BYTES + padded + ICRC_BYTES;
    const at = batch.begin(this.#destination, bytes);
    if (at < 0) return false;
    writeBth(batch.view, at, opcode, body.length, qpn, psn, ackRequested, false);
    batch.bytes.fill(0, at + BTH_BYTES, at + bytes);
    batch.bytes.set(body, at + BTH_BYTES);
    batch.end(at, bytes);
    return true;
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }
}

/** A RETH, as WRITEs and READ requests begin with. */
export function reth(address: number, rkey: number, length: number): Uint8Array<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(16));
  view.setBigUint64(0, BigInt(address));
  view.setUint32(8, rkey);
  view.setUint32(12, length);
  return new Uint8Array(view.buffer);
}

/** A fragment that is a whole message, as tests of the messenger send it. */
export function fragment(kind: number, id: number, body: Uint8Array): Uint8Array<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(16 + body.length));
  view.setUint8(0, kind);
  view.setUint8(1, 1);
  view.setUint32(4, id);
  view.setUint32(8, body.length);
  const bytes = new Uint8Array(view.buffer);
  bytes.set(body, 16);
  return bytes;
}
