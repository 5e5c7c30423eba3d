/** An attacker on the path of packets: sees each, and passes it on as it likes, with an ICRC that fits. */
import {
  addressOfGid,
  Destination,
  Endpoint,
  ROCE_UDP_PORT,
} from "../../lib/rdma/roce/endpoint.ts";
import { maskBth } from "../../lib/rdma/roce/headers.ts";
import { UdpWire } from "../../lib/rdma/roce/udp_wire.ts";
import { MESSAGE_SLOT_BYTES, ReceiveBatch, TransmitBatch } from "../../lib/rdma/roce/wire.ts";
import type { LocalQueuePair, QueuePairPath } from "../../lib/session/data_path.ts";
import { changed } from "./careless_path.ts";

/** Looks at a packet from the BTH on, ICRC included, and may change it. */
export type Look = (packet: Uint8Array) => void;

/** Where packets come by, and how they go on. */
export interface TapPlace {
  /** Where they are to go: a port's GID, and its UDP port if it is not that of RDMA devices. */
  readonly to: { readonly gid: string; readonly udpPort?: number | undefined };
  /** GID of who sends them, as which they go on. */
  readonly from: string;
  /** Runs where that one's host is. */
  readonly within: <T>(work: () => T) => T;
}

/** Stands in the way to one port, with a UDP port of its own at that one's address. */
export class WireTap implements Disposable {
  readonly #arriving: UdpWire;
  readonly #leaving: UdpWire;
  readonly #received = new ReceiveBatch();
  readonly #outgoing = new TransmitBatch(1);
  readonly #destination: Destination;
  #disposed = false;

  constructor({ to, from, within }: TapPlace, private readonly look: Look) {
    const address = addressOfGid(to.gid);
    const target = new Endpoint(address, to.udpPort ?? ROCE_UDP_PORT);
    this.#arriving = new UdpWire(address, 0);
    this.#leaving = within(() => new UdpWire(addressOfGid(from), 0));
    this.#destination = new Destination(this.#leaving.local, target);
    this.#run();
  }

  /** Where packets have to go to instead. */
  get port(): number {
    return this.#arriving.local.port;
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    this.#arriving[Symbol.dispose]();
    this.#leaving[Symbol.dispose]();
  }

  async #run(): Promise<void> {
    while (await this.#arriving.readable() && !this.#disposed) {
      const count = this.#arriving.receive(this.#received);
      for (let message = 0; message < count; message++) this.#passMessage(message);
    }
    this.#received[Symbol.dispose]();
    this.#outgoing[Symbol.dispose]();
  }

  #passMessage(message: number): void {
    const { lengths, segmentBytes, bytes } = this.#received;
    const start = message * MESSAGE_SLOT_BYTES;
    const end = start + lengths[message]!;
    const size = segmentBytes[message]!;
    for (let at = start; at < end; at += size) {
      this.#pass(bytes.subarray(at, Math.min(at + size, end)));
    }
  }

  #pass(packet: Uint8Array): void {
    const batch = this.#outgoing;
    batch.clear();
    this.look(packet);
    const at = batch.begin(this.#destination, packet.length);
    batch.bytes.set(packet, at);
    maskBth(batch.view, at);
    batch.end(at, packet.length);
    this.#leaving.send(batch, 0);
  }
}

/**
 * A data path of the server with the attacker between it and its client.
 *
 * @param to whose way the packets are on that it looks at
 */
export function tapped(
  look: Look,
  to: "client" | "server" = "server",
): (path: QueuePairPath) => QueuePairPath {
  return (path) => {
    let tap: WireTap | undefined;
    const tapOf = (target: LocalQueuePair) =>
      tap = new WireTap({ to: target, from: target.gid, within: (work) => work() }, look);
    return changed(path, {
      async allocate() {
        const own = await path.allocate();
        return to === "server" ? { ...own, udpPort: tapOf(own).port } : own;
      },
      connect(order) {
        const { remote } = order;
        if (to === "server") return path.connect(order);
        return path.connect({ ...order, remote: { ...remote, udpPort: tapOf(remote).port } });
      },
      close(reason) {
        tap?.[Symbol.dispose]();
        return path.close(reason);
      },
    });
  };
}
