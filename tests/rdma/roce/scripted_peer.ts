/** A peer whose packets are made one by one, for what happens in an order that no real peer can be brought to. */
import type { QueuePairAttributes } from "../../../lib/rdma/queue_pair.ts";
import { Endpoint } from "../../../lib/rdma/roce/endpoint.ts";
import { Packet } from "../../../lib/rdma/roce/headers.ts";
import { PacketOpcode } from "../../../lib/rdma/roce/opcode.ts";
import { Opcode } from "../../../lib/rdma/work_request.ts";
import { Forger, type Forgery, PATH_MTU, plain } from "./forged_packet.ts";
import { SimulatedEnd, SimulatedHost } from "./simulated_end.ts";
import { type Faults, NO_FAULTS, SimulatedNetwork } from "./simulated_network.ts";

/** Last octet of its address. */
const HOST_NUMBER = 99;

/** PSN of its first packet. */
const FIRST_PSN = 0;

/** A packet that the peer was sent. */
export type Heard = Pick<Packet, "opcode" | "psn" | "syndrome" | "msn">;

/** What is unlike {@linkcode plain} in a packet. Its PSN, `ahead`, counts from the first of its direction. */
export type Scripted = Partial<Forgery>;

/** The peer of an end, which it brings to RTS. All peers of a host have one address. */
export class ScriptedPeer implements Disposable {
  /** All that it was sent. */
  readonly heard: Heard[] = [];
  /** Called with everything that it is sent. */
  onHeard: (packet: Heard) => void = () => {};
  readonly #address: Endpoint;
  readonly #forger: Forger;

  constructor(
    readonly network: SimulatedNetwork,
    readonly end: SimulatedEnd,
    more: Partial<QueuePairAttributes> = {},
  ) {
    const { address, port } = this.#local;
    this.#address = new Endpoint(Uint8Array.of(...address.subarray(0, -1), HOST_NUMBER), port);
    this.#forger = new Forger(this.#address, this.#local);
    const { qpn } = end.queuePair;
    // Its number is that of the end: there is no other on its host.
    end.connect({ address: this.#address, qpn, psn: FIRST_PSN }, PATH_MTU, more);
    this.#listen(qpn);
  }

  /** Sends packets, which arrive at once, at a port that has not looked yet. */
  send(...packets: readonly Scripted[]): void {
    const { network, end: { queuePair: { qpn }, psn, region } } = this;
    const knowledge = { qpn, requestPsn: FIRST_PSN, acknowledgedPsn: psn, regions: [region] };
    for (const packet of packets) {
      const bytes = this.#forger.make({ ...plain, ...packet }, knowledge);
      network.carry(this.#address, this.#local, bytes);
    }
    network.run([], () => {});
  }

  /** Has the end send it a packet and acknowledges that: to who has never answered one is sent at a time. */
  answer(): void {
    const { sends, queuePair, region, host } = this.end;
    sends.prepare(0, 0, Opcode.SEND, 0).buffer(0, region.address, 8, region.lkey);
    queuePair.postSend(sends);
    this.send({ opcode: PacketOpcode.ACKNOWLEDGE });
    host.port.progress();
    this.heard.length = 0;
  }

  /** What it was sent of one opcode. */
  heardOf(opcode: number): Heard[] {
    return this.heard.filter((packet) => packet.opcode === opcode);
  }

  [Symbol.dispose](): void {
    this.#forger[Symbol.dispose]();
  }

  get #local(): Endpoint {
    return this.end.host.port.local;
  }

  #listen(qpn: number): void {
    const { onPacket } = this.network;
    const packet = new Packet();
    this.network.onPacket = (bytes, to) => {
      onPacket(bytes, to);
      packet.decode(new DataView(bytes.buffer), 0, bytes.length);
      if (to === this.#local || packet.destQpn !== qpn) return;
      const { opcode, psn, syndrome, msn } = packet;
      const heard = { opcode, psn, syndrome, msn };
      this.heard.push(heard);
      this.onHeard(heard);
    };
  }
}

/** A host of which all peers are scripted. */
export class ScriptedScene implements Disposable {
  readonly network: SimulatedNetwork;
  readonly host: SimulatedHost;
  readonly #ends: SimulatedEnd[] = [];
  readonly #resources = new DisposableStack();

  constructor(faults: Faults = NO_FAULTS) {
    this.network = new SimulatedNetwork(faults, 1);
    this.host = this.#resources.use(new SimulatedHost(this.network, 1, "IPv4"));
  }

  /** Makes an end, and the peer that it is connected with. */
  meet(memoryBytes: number, more: Partial<QueuePairAttributes> = {}): ScriptedPeer {
    const end = this.#resources.use(new SimulatedEnd(this.host, memoryBytes, 1000));
    this.#ends.push(end);
    return this.#resources.use(new ScriptedPeer(this.network, end, more));
  }

  /** Lets the host do what there is to do now, without waiting for what may come later. */
  settle(): void {
    this.network.run(
      [this.host.port],
      () => this.#ends.forEach((end) => end.collect()),
      this.network.now + 1,
    );
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }
}
