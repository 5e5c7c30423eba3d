import { constants } from "node:os";
import { forget, readable } from "../../../ffi/epoll.ts";
import { errno, errnoName, libc } from "../../../ffi/libc.ts";
import { RdmaError } from "../../errors.ts";
import { Endpoint } from "./endpoint.ts";
import { MAX_SEGMENTS } from "./icrc.ts";
import { IncomingMessages, OutgoingMessages } from "./message_vector.ts";
import { PeerSockets } from "./peer_sockets.ts";
import { boundSocket, canCut, peerSocket } from "./udp_socket.ts";
import type { ReceiveBatch, TransmitBatch, Wire } from "./wire.ts";

const { EAGAIN, EBADF, EFAULT, EINTR, EINVAL, EIO, ENOTSOCK, EOPNOTSUPP } = constants.errno;

/**
 * What a device without checksum offload says to UDP_SEGMENT (udp_send_skb of net/ipv4/udp.c); but
 * EINVAL also stands for a destination that cannot be.
 */
const NO_SEGMENTATION: readonly number[] = [EIO, EINVAL, EOPNOTSUPP];

/** Errors that no other packet and no later time would change; all others come from the network. */
const FATAL: readonly number[] = [EBADF, EFAULT, ENOTSOCK];

/**
 * A UDP socket, bound to one address and port and connected to none: all is sent by it, so that the
 * IP IDs of what it sends count from 0 within a message, as {@linkcode IcrcPrefix.icrc} needs. What
 * peers that are attended to send comes by sockets of their own.
 */
export class UdpWire implements Wire {
  readonly local: Endpoint;
  protected readonly descriptor: number;
  #maxSegments = MAX_SEGMENTS;
  readonly #outgoing: OutgoingMessages;
  readonly #incoming: IncomingMessages;
  readonly #peers: PeerSockets;
  #open = true;

  /**
   * @param address 4 or 16 octets of an interface of this host
   * @param port UDP port; 0 lets the system choose
   * @throws RdmaError `udp_port_taken`, `no_such_address`, or `udp_socket_failed` for other reasons
   */
  constructor(address: Uint8Array<ArrayBuffer>, port: number) {
    const wanted = new Endpoint(address, port);
    const { socket, port: bound } = boundSocket(wanted);
    this.descriptor = socket;
    this.local = new Endpoint(address, bound);
    if (!canCut(this.descriptor)) this.#maxSegments = 1;
    this.#outgoing = new OutgoingMessages(wanted.sockaddr.length);
    this.#incoming = new IncomingMessages(this.local);
    this.#peers = new PeerSockets(this.local, this.descriptor, () => peerSocket(this.local));
  }

  get maxSegments(): number {
    return this.#maxSegments;
  }

  /**
   * Sends messages from `first` on, and returns how many were taken: fewer when the socket's buffer is
   * full. What the network does not take, as when a peer is unreachable, is lost as on its way.
   *
   * @throws RdmaError `udp_socket_failed` when the socket itself does not work any more
   */
  send(batch: TransmitBatch, first: number): number {
    this.#assertOpen();
    this.#outgoing.prepare(batch, first);
    let next = first;
    while (next < batch.count) {
      const left = batch.count - next;
      const sent = libc().sendmmsg(this.descriptor, this.#outgoing.pointers[next]!, left, 0);
      if (sent > 0) {
        next += sent;
        continue;
      }
      const error = errno();
      if (error === EAGAIN) break;
      if (error === EINTR) continue;
      this.#assertUsable("sendmmsg", error);
      if (NO_SEGMENTATION.includes(error) && this.#goesUncut(batch, next)) this.#maxSegments = 1;
      next++;
    }
    return next - first;
  }

  attend(remote: Endpoint): void {
    this.#assertOpen();
    this.#peers.attend(remote);
  }

  neglect(remote: Endpoint): void {
    if (this.#open) this.#peers.neglect(remote);
  }

  /**
   * Takes what has arrived without waiting, of each peer in its turn, and returns the number of
   * messages. One that cannot be used, as it was cut off, has length 0.
   *
   * @throws RdmaError `udp_socket_failed` when the socket itself does not work any more
   */
  receive(batch: ReceiveBatch): number {
    this.#assertOpen();
    this.#incoming.prepare(batch);
    const sockets = this.#peers.poll();
    let count = 0;
    let sittingOut: number;
    do {
      sittingOut = 0;
      for (let index = 0; index < sockets; index++) {
        const socket = this.#peers.ready[index]!;
        const most = this.#peers.takeTurn(socket, sockets);
        if (most === 0) sittingOut += 1;
        else count = this.#receiveFrom(socket, batch, count, most);
      }
    } while (sittingOut > 0 && sittingOut === sockets);
    return count;
  }

  readable(): Promise<boolean> {
    this.#assertOpen();
    return readable(this.#peers.epoll);
  }

  [Symbol.dispose](): void {
    if (!this.#open) return;
    this.#open = false;
    forget(this.#peers.epoll);
    this.#peers[Symbol.dispose]();
    libc().close(this.descriptor);
  }

  /** Puts at most so many messages behind the first ones, and returns how many there are then. */
  #receiveFrom(socket: number, batch: ReceiveBatch, first: number, most: number): number {
    const count = libc().recvmmsg(socket, this.#incoming.pointers[first]!, most, 0, null);
    if (count < 0) this.#assertUsable("recvmmsg", errno());
    if (count <= 0) return first;
    this.#incoming.deliver(batch, first, first + count);
    this.#peers.took(socket, count, packetsOf(batch, first, first + count));
    return first + count;
  }

  /** Whether a message of several packets that was not taken can be sent, its first packet alone, uncut. */
  #goesUncut(batch: TransmitBatch, message: number): boolean {
    if (batch.segments[message] === 1) return false;
    this.#outgoing.cutToFirst(batch, message);
    return libc().sendmmsg(this.descriptor, this.#outgoing.pointers[message]!, 1, 0) === 1;
  }

  #assertOpen(): void {
    if (!this.#open) throw new RdmaError("disposed", "the UDP socket was used after its end");
  }

  #assertUsable(call: string, error: number): void {
    if (!FATAL.includes(error)) return;
    throw new RdmaError(
      "udp_socket_failed",
      `${call} failed with ${errnoName(error)} on the UDP socket of ${this.local}`,
      "start the program again; something in it has closed or replaced this socket",
    );
  }
}

function packetsOf({ lengths, segmentBytes }: ReceiveBatch, first: number, end: number): number {
  let packets = 0;
  for (let message = first; message < end; message++) {
    packets += Math.ceil(lengths[message]! / (segmentBytes[message]! || 1));
  }
  return packets;
}
