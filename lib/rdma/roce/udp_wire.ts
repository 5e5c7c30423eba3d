import { constants } from "node:os";
import { forget, readable } from "../../../ffi/epoll.ts";
import { addressOf, pointerAt, pointerOf } from "../../../ffi/layout.ts";
import {
  C,
  check,
  cmsghdr,
  errno,
  errnoName,
  iovec,
  libc,
  mmsghdr,
  sockaddrIn,
  sockaddrIn6,
} from "../../../ffi/libc.ts";
import { RdmaError } from "../../errors.ts";
import { Endpoint } from "./endpoint.ts";
import { MAX_SEGMENTS } from "./icrc.ts";
import { PeerSockets } from "./peer_sockets.ts";
import {
  BATCH_MESSAGES,
  MESSAGE_SLOT_BYTES,
  type ReceiveBatch,
  type TransmitBatch,
  type Wire,
} from "./wire.ts";

const {
  EADDRINUSE,
  EADDRNOTAVAIL,
  EAGAIN,
  EBADF,
  EFAULT,
  EINTR,
  EINVAL,
  EIO,
  ENOTSOCK,
  EOPNOTSUPP,
} = constants.errno;

/**
 * What a device without checksum offload says to UDP_SEGMENT (udp_send_skb of net/ipv4/udp.c); but
 * EINVAL also stands for a destination that cannot be.
 */
const NO_SEGMENTATION: readonly number[] = [EIO, EINVAL, EOPNOTSUPP];

/** Errors that no other packet and no later time would change; all others come from the network. */
const FATAL: readonly number[] = [EBADF, EFAULT, ENOTSOCK];

/** Bytes asked of the system for either direction; without CAP_NET_ADMIN it grants net.core.rmem_max at most. */
const BUFFER_BYTES = 16 * 1024 * 1024;

/** The same for a socket of one peer: twice what a peer of ours has on its way (congestion.ts), and kernel's overhead. */
const PEER_BUFFER_BYTES = 2 * 1024 * 1024;

/** Packets of a turn: as many of the largest as make one message of the socket. */
const TURN_PACKETS = 16;

const WORD = 4;

/** CMSG_SPACE of a 16 or a 32-bit value. */
const CONTROL_BYTES = cmsghdr.size + 8;
const NAME_BYTES = 32;

/** Word of field `field` in the first message's struct mmsghdr; that of message `i` is `i * HEADER` further. */
const HEADER = mmsghdr.size / WORD;
const NAME_POINTER = mmsghdr.offset("msg_hdr.msg_name") / WORD;
const NAME_LENGTH = mmsghdr.offset("msg_hdr.msg_namelen") / WORD;
const CONTROL_LENGTH = mmsghdr.offset("msg_hdr.msg_controllen") / WORD;
const FLAGS = mmsghdr.offset("msg_hdr.msg_flags") / WORD;
const MESSAGE_LENGTH = mmsghdr.offset("msg_len") / WORD;

/** Behind the headers lie an iovec, room for one control message, and a socket address for each message. */
const VECTORS = BATCH_MESSAGES * mmsghdr.size;
const CONTROLS = VECTORS + BATCH_MESSAGES * iovec.size;
const NAMES = CONTROLS + BATCH_MESSAGES * CONTROL_BYTES;
const TOTAL = NAMES + BATCH_MESSAGES * NAME_BYTES;

const VECTOR = iovec.size / WORD;
const VECTOR_BASE = (VECTORS + iovec.offset("iov_base")) / WORD;
const VECTOR_LENGTH = (VECTORS + iovec.offset("iov_len")) / WORD;
const CONTROL = CONTROL_BYTES / WORD;
const CONTROL_LEVEL = (CONTROLS + cmsghdr.offset("cmsg_level")) / WORD;
const CONTROL_TYPE = (CONTROLS + cmsghdr.offset("cmsg_type")) / WORD;
const CONTROL_DATA = (CONTROLS + cmsghdr.size) / WORD;
const NAME = NAME_BYTES / WORD;

/** What sendmmsg(2) and recvmmsg(2) take for one batch, laid out once: a call changes single words of it. */
class MessageVector {
  readonly words = new Uint32Array(new ArrayBuffer(TOTAL));
  /** Of the header of each message, and so of those from it on. */
  readonly pointers: readonly Deno.PointerValue[];
  #slots = 0;

  constructor() {
    const bytes = new Uint8Array(this.words.buffer);
    const base = addressOf(pointerOf(bytes));
    const headers = Array.from(
      { length: BATCH_MESSAGES },
      (_, message) => mmsghdr.over(bytes, message * mmsghdr.size),
    );
    for (const [message, header] of headers.entries()) {
      header.set("msg_hdr.msg_name", base + BigInt(NAMES + message * NAME_BYTES))
        .set("msg_hdr.msg_iov", base + BigInt(VECTORS + message * iovec.size))
        .set("msg_hdr.msg_iovlen", 1n)
        .set("msg_hdr.msg_control", base + BigInt(CONTROLS + message * CONTROL_BYTES));
    }
    this.pointers = headers.map((_, message) => pointerAt(base + BigInt(message * mmsghdr.size)));
  }

  /** Lets the messages be those whose slots begin at `address`. */
  attach(address: number): void {
    if (this.#slots === address) return;
    this.#slots = address;
    for (let message = 0; message < BATCH_MESSAGES; message++) {
      const at = VECTOR_BASE + message * VECTOR;
      setAddress(this.words, at, address + message * MESSAGE_SLOT_BYTES);
    }
  }
}

/** Packets of one socket's messages above what a turn is. */
function packetsBeyondTurn(batch: ReceiveBatch, first: number, end: number): number {
  let packets = 0;
  for (let message = first; message < end; message++) {
    packets += Math.ceil(batch.lengths[message]! / (batch.segmentBytes[message]! || 1));
  }
  return packets - TURN_PACKETS * (end - first);
}

function setAddress(words: Uint32Array, at: number, address: number): void {
  words[at] = address; // modulo 2^32
  words[at + 1] = address / 2 ** 32;
}

/** Messages about to be sent: each may ask to be cut into segments (UDP_SEGMENT of udp(7)). */
class OutgoingMessages extends MessageVector {
  readonly #nameLength: number;

  constructor(nameLength: number) {
    super();
    this.#nameLength = nameLength;
    for (let message = 0; message < BATCH_MESSAGES; message++) {
      this.words[message * HEADER + NAME_LENGTH] = this.#nameLength;
      cmsghdr.over(new Uint8Array(this.words.buffer), CONTROLS + message * CONTROL_BYTES)
        .set("cmsg_len", BigInt(cmsghdr.size + Uint16Array.BYTES_PER_ELEMENT))
        .set("cmsg_level", C.SOL_UDP)
        .set("cmsg_type", C.UDP_SEGMENT);
    }
  }

  prepare(batch: TransmitBatch, first: number): void {
    this.attach(batch.address);
    const { words } = this;
    for (let message = first; message < batch.count; message++) {
      const header = message * HEADER;
      const { sockaddrAddress } = batch.destinations[message]!.remote;
      setAddress(words, header + NAME_POINTER, sockaddrAddress);
      words[message * VECTOR + VECTOR_LENGTH] = batch.lengths[message]!;
      words[message * CONTROL + CONTROL_DATA] = batch.segmentBytes[message]!;
      words[header + CONTROL_LENGTH] = batch.segments[message]! > 1 ? CONTROL_BYTES : 0;
    }
  }

  /** Lets a message be its first packet alone. */
  cutToFirst(batch: TransmitBatch, message: number): void {
    this.words[message * VECTOR + VECTOR_LENGTH] = batch.segmentBytes[message]!;
    this.words[message * HEADER + CONTROL_LENGTH] = 0;
  }
}

/** Messages about to be received: the kernel tells how large their packets are (UDP_GRO of udp(7)). */
class IncomingMessages extends MessageVector {
  readonly #family: number;
  readonly #octets: Uint8Array;
  readonly #families: Uint16Array;
  readonly #addressWord: number;
  readonly #addressWords: number;
  /** Headers that the last call has changed. */
  #used = BATCH_MESSAGES;

  constructor(local: Endpoint) {
    super();
    this.#family = local.isIpv4 ? C.AF_INET : C.AF_INET6;
    this.#octets = new Uint8Array(this.words.buffer);
    this.#families = new Uint16Array(this.words.buffer);
    const offset = local.isIpv4 ? sockaddrIn.offset("sin_addr") : sockaddrIn6.offset("sin6_addr");
    this.#addressWord = (NAMES + offset) / WORD;
    this.#addressWords = local.address.length / WORD;
    for (let message = 0; message < BATCH_MESSAGES; message++) {
      this.words[message * VECTOR + VECTOR_LENGTH] = MESSAGE_SLOT_BYTES;
    }
  }

  prepare(batch: ReceiveBatch): void {
    this.attach(batch.address);
    for (let message = 0; message < this.#used; message++) {
      const header = message * HEADER;
      this.words[header + NAME_LENGTH] = NAME_BYTES;
      this.words[header + CONTROL_LENGTH] = CONTROL_BYTES;
    }
  }

  /** So many messages have been received in all. */
  delivered(count: number): void {
    this.#used = count;
  }

  /** Tells `batch` what the messages from `first` on are, up to `end`. */
  deliver(batch: ReceiveBatch, first: number, end: number): void {
    for (let message = first; message < end; message++) {
      const length = this.#isWhole(message) ? this.words[message * HEADER + MESSAGE_LENGTH]! : 0;
      batch.lengths[message] = length;
      batch.segmentBytes[message] = this.#segmentBytes(message) || length;
      this.#tellSource(batch, message);
    }
  }

  #isWhole(message: number): boolean {
    const truncated = this.words[message * HEADER + FLAGS]! & (C.MSG_TRUNC | C.MSG_CTRUNC);
    return truncated === 0 && this.#families[(NAMES + message * NAME_BYTES) / 2] === this.#family;
  }

  /** 0 when the message is one packet. */
  #segmentBytes(message: number): number {
    const { words } = this;
    if (words[message * HEADER + CONTROL_LENGTH] === 0) return 0;
    const control = message * CONTROL;
    return words[control + CONTROL_LEVEL] === C.SOL_UDP &&
        words[control + CONTROL_TYPE] === C.UDP_GRO
      ? words[control + CONTROL_DATA]!
      : 0;
  }

  #tellSource(batch: ReceiveBatch, message: number): void {
    const address = this.#addressWord + message * NAME;
    for (let word = 0; word < 4; word++) {
      batch.sources[4 * message + word] = word < this.#addressWords
        ? this.words[address + word]!
        : 0;
    }
    // The port lies behind the family in sockaddr_in and in sockaddr_in6, the higher octet first.
    const port = NAMES + message * NAME_BYTES + sockaddrIn.offset("sin_port");
    batch.sourcePorts[message] = this.#octets[port]! << 8 | this.#octets[port + 1]!;
  }
}

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
  /** By descriptor: packets of its last message beyond those of a turn, less those of turns since. */
  readonly #debts: number[] = [];
  #open = true;

  /**
   * @param address 4 or 16 octets of an interface of this host
   * @param port UDP port; 0 lets the system choose
   * @throws RdmaError `udp_port_taken`, `no_such_address`, or `udp_socket_failed` for other reasons
   */
  constructor(address: Uint8Array<ArrayBuffer>, port: number) {
    const wanted = new Endpoint(address, port);
    this.descriptor = openSocket(wanted.isIpv4);
    if (this.descriptor < 0) throw openError("socket", wanted, errno());
    try {
      this.#configure(wanted.isIpv4);
      if (libc().bind(this.descriptor, wanted.sockaddr, wanted.sockaddr.length) < 0) {
        throw openError("bind", wanted, errno());
      }
      this.local = new Endpoint(address, this.#boundPort());
    } catch (error) {
      libc().close(this.descriptor);
      throw error;
    }
    this.#outgoing = new OutgoingMessages(wanted.sockaddr.length);
    this.#incoming = new IncomingMessages(this.local);
    this.#peers = new PeerSockets(this.local, this.descriptor, () => this.#openPeerSocket());
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
        if (sockets > 1 && this.#sitsOut(socket)) sittingOut += 1;
        else count = this.#receiveFrom(socket, batch, count, this.#mostOf(socket, sockets));
      }
    } while (sittingOut > 0 && sittingOut === sockets);
    this.#incoming.delivered(count);
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

  /** Whether the socket's last message was worth several turns of which one is this. */
  #sitsOut(socket: number): boolean {
    const debt = this.#debts[socket] ?? 0;
    if (debt <= 0) return false;
    this.#debts[socket] = debt - TURN_PACKETS;
    return true;
  }

  /** Messages that are taken at once: of somebody who floods each has many packets. */
  #mostOf(socket: number, sockets: number): number {
    if (sockets > 1 || this.#peers.isOfStrangers(socket)) return 1;
    return (this.#debts[socket] ?? 0) > 0 ? 1 : BATCH_MESSAGES;
  }

  /** Puts at most so many messages behind the first ones, and returns how many there are then. */
  #receiveFrom(socket: number, batch: ReceiveBatch, first: number, most: number): number {
    const count = libc().recvmmsg(socket, this.#incoming.pointers[first]!, most, 0, null);
    if (count < 0) this.#assertUsable("recvmmsg", errno());
    if (count <= 0) return first;
    this.#incoming.deliver(batch, first, first + count);
    this.#debts[socket] = packetsBeyondTurn(batch, first, first + count);
    return first + count;
  }

  #openPeerSocket(): number {
    const socket = openSocket(this.local.isIpv4);
    if (socket >= 0) configure(socket, this.local.isIpv4, PEER_BUFFER_BYTES);
    return socket;
  }

  /** Whether a message of several packets that was not taken can be sent, its first packet alone, uncut. */
  #goesUncut(batch: TransmitBatch, message: number): boolean {
    if (batch.segments[message] === 1) return false;
    this.#outgoing.cutToFirst(batch, message);
    return libc().sendmmsg(this.descriptor, this.#outgoing.pointers[message]!, 1, 0) === 1;
  }

  #configure(isIpv4: boolean): void {
    configure(this.descriptor, isIpv4, BUFFER_BYTES);
    if (setOption(this.descriptor, C.SOL_UDP, C.UDP_SEGMENT, 0) < 0) this.#maxSegments = 1;
  }

  #boundPort(): number {
    const name = new Uint8Array(sockaddrIn6.size);
    check(
      "getsockname",
      libc().getsockname(this.descriptor, name, new Uint32Array([name.length])),
    );
    return new DataView(name.buffer).getUint16(sockaddrIn6.offset("sin6_port"));
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

/** Negative when the system has none. */
function openSocket(isIpv4: boolean): number {
  const type = C.SOCK_DGRAM | C.SOCK_NONBLOCK | C.SOCK_CLOEXEC;
  return libc().socket(isIpv4 ? C.AF_INET : C.AF_INET6, type, 0);
}

/** @param bufferBytes for either direction */
function configure(socket: number, isIpv4: boolean, bufferBytes: number): void {
  // DF is set, and "fragmentation needed" of ICMP is ignored: the path MTU is agreed in the exchange,
  // and anyone who guesses two addresses could forge such a message.
  if (isIpv4) {
    checkOption(socket, C.IPPROTO_IP, C.IP_MTU_DISCOVER, C.IP_PMTUDISC_PROBE);
  } else {
    checkOption(socket, C.IPPROTO_IPV6, C.IPV6_V6ONLY, 1);
    checkOption(socket, C.IPPROTO_IPV6, C.IPV6_MTU_DISCOVER, C.IPV6_PMTUDISC_PROBE);
    // RoCEv2 needs no UDP checksum, and rdma_rxe and NICs send none: the ICRC is there.
    checkOption(socket, C.SOL_UDP, C.UDP_NO_CHECK6_RX, 1);
  }
  enlarge(socket, C.SO_RCVBUFFORCE, C.SO_RCVBUF, bufferBytes);
  enlarge(socket, C.SO_SNDBUFFORCE, C.SO_SNDBUF, bufferBytes);
  // Without it the kernel passes packets on one by one.
  setOption(socket, C.SOL_UDP, C.UDP_GRO, 1);
}

/** The first asks for more than net.core.rmem_max and wmem_max, and needs CAP_NET_ADMIN. */
function enlarge(socket: number, force: number, usual: number, bytes: number): void {
  if (setOption(socket, C.SOL_SOCKET, force, bytes) < 0) {
    setOption(socket, C.SOL_SOCKET, usual, bytes);
  }
}

function checkOption(socket: number, level: number, option: number, value: number): void {
  check("setsockopt", setOption(socket, level, option, value));
}

function setOption(socket: number, level: number, option: number, value: number): number {
  const bytes = Int32Array.of(value);
  return libc().setsockopt(socket, level, option, bytes, bytes.byteLength);
}

function openError(call: string, endpoint: Endpoint, error: number): RdmaError {
  if (error === EADDRINUSE) {
    return new RdmaError(
      "udp_port_taken",
      `UDP port ${endpoint.port} of this address is in use: ${endpoint}`,
      "end the program that has it (ss -ulpn), or unload rdma_rxe, which has port 4791 of all addresses",
    );
  }
  if (error === EADDRNOTAVAIL) {
    return new RdmaError(
      "no_such_address",
      `no network interface of this host has the address of ${endpoint}`,
      "use an address that `ip address` lists",
    );
  }
  return new RdmaError(
    "udp_socket_failed",
    `${call} failed with ${errnoName(error)} for ${endpoint}`,
    "check that this program may open UDP sockets, and that the address is neither link-local nor multicast",
  );
}
