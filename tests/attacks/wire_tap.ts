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

/** Stands in the way to one port. */
class WireTap {
  readonly #wire: UdpWire;
  readonly #received = new ReceiveBatch();
  readonly #outgoing = new TransmitBatch(1);
  readonly #destination: Destination;

  constructor({ gid, udpPort }: LocalQueuePair, private readonly look: Look) {
    const address = addressOfGid(gid);
    this.#wire = new UdpWire(address, 0);
    const target = new Endpoint(address, udpPort ?? ROCE_UDP_PORT);
    this.#destination = new Destination(this.#wire.local, target);
    this.#run();
  }

  get port(): number {
    return this.#wire.local.port;
  }

  close(): void {
    this.#wire[Symbol.dispose]();
  }

  async #run(): Promise<void> {
    while (await this.#wire.readable()) {
      const count = this.#wire.receive(this.#received);
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
    this.#wire.send(batch, 0);
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
    const tapOf = (numbers: LocalQueuePair) => tap = new WireTap(numbers, look);
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
        tap?.close();
        return path.close(reason);
      },
    });
  };
}
