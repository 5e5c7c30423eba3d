import { pointerOf } from "../../../ffi/layout.ts";
import { C, check, epollEvent, libc } from "../../../ffi/libc.ts";
import { Endpoint, ROCE_UDP_PORT } from "./endpoint.ts";
import { BATCH_MESSAGES } from "./wire.ts";

/** Words of a struct epoll_event, and the one whose value is the descriptor. */
const EVENT = epollEvent.size / Int32Array.BYTES_PER_ELEMENT;
const DESCRIPTOR = epollEvent.offset("data") / Int32Array.BYTES_PER_ELEMENT;

/** Packets of a turn: as many of the largest as make one message of a socket. */
const TURN_PACKETS = 15;

/** Packets that are taken at once of a socket that alone has something. */
const ALONE_PACKETS = BATCH_MESSAGES * TURN_PACKETS;

/** Milliseconds until what strangers send is looked at again. */
const STRANGERS_PAUSE = 1;

/**
 * The sockets by which a port receives: the one that all may send to, and for each peer whose packets
 * are awaited one that is connected to it. So the kernel keeps a queue for each: whoever floods the
 * port has packets of its own dropped, and nobody else's wait behind them. While there are peers, what
 * comes by the socket of all is of strangers, and only some of it is taken, to be counted.
 */
export class PeerSockets implements Disposable {
  /** Readable while one of them has something, and it is not strangers' alone whose turn is to come. */
  readonly epoll = check("epoll_create1", libc().epoll_create1(C.EPOLL_CLOEXEC));
  /** Descriptors that {@linkcode poll} has found. */
  readonly ready = new Int32Array(BATCH_MESSAGES);
  readonly #sockets = new Map<string, readonly number[]>();
  readonly #events = new Int32Array(new ArrayBuffer(epollEvent.size * BATCH_MESSAGES));
  readonly #pointer = pointerOf(new Uint8Array(this.#events.buffer));
  /** By descriptor: packets of a message that came last, and those beyond its turn, less those of turns since. */
  readonly #packets: number[] = [];
  readonly #debts: number[] = [];
  /** Peers for which the system had no socket left: what they send comes with strangers'. */
  #unconnected = 0;
  #pause: number | undefined;

  /**
   * @param local address and port of all
   * @param shared the socket of all peers; it stays the caller's
   * @param open makes another that is set up as that one is; negative where the system has none
   */
  constructor(
    private readonly local: Endpoint,
    private readonly shared: number,
    private readonly open: () => number,
  ) {
    this.#watch(shared, C.EPOLL_CTL_ADD, C.EPOLLIN);
  }

  /** Whether only strangers' packets come by this socket. */
  isOfStrangers(socket: number): boolean {
    return socket === this.shared && this.#sockets.size > 0 && this.#unconnected === 0;
  }

  /** Packets of this peer are awaited. Where the system has no socket left, they come by that of all. */
  attend(remote: Endpoint): void {
    const sockets = sourcesOf(remote).map((source) => this.#connected(source));
    const opened = sockets.filter((socket) => socket >= 0);
    if (opened.length < sockets.length) this.#unconnected += 1;
    this.#sockets.set(String(remote), opened);
  }

  /** They are awaited no more. */
  neglect(remote: Endpoint): void {
    const name = String(remote);
    const sockets = this.#sockets.get(name);
    if (!sockets) return;
    for (const socket of sockets) {
      libc().close(socket);
      this.took(socket, 1, 0); // the next one with this descriptor owes nothing
    }
    if (sockets.length < sourcesOf(remote).length) this.#unconnected -= 1;
    this.#sockets.delete(name);
  }

  /** Finds some sockets that have something, by turns, and returns how many. */
  poll(): number {
    if (this.#sockets.size === 0) {
      this.ready[0] = this.shared;
      return 1;
    }
    const count = libc().epoll_wait(this.epoll, this.#pointer, BATCH_MESSAGES, 0);
    for (let index = 0; index < count; index++) {
      const socket = this.ready[index] = this.#events[index * EVENT + DESCRIPTOR]!;
      if (this.isOfStrangers(socket)) this.#passStrangersBy();
    }
    return Math.max(count, 0);
  }

  /**
   * Messages that may be taken of a socket in this turn, of so many that have something: none while
   * it owes for its last one, as a message of somebody who floods has four times the packets.
   */
  takeTurn(socket: number, sockets: number): number {
    if (this.isOfStrangers(socket)) return 1;
    if (sockets === 1) {
      const most = Math.floor(ALONE_PACKETS / (this.#packets[socket] || 1));
      return Math.min(BATCH_MESSAGES, Math.max(1, most));
    }
    const debt = this.#debts[socket] ?? 0;
    if (debt <= 0) return 1;
    this.#debts[socket] = debt - TURN_PACKETS;
    return 0;
  }

  /** So many messages of so many packets in all were taken. */
  took(socket: number, messages: number, packets: number): void {
    this.#packets[socket] = packets / messages;
    this.#debts[socket] = packets - messages * TURN_PACKETS;
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#pause);
    for (const socket of [...this.#sockets.values()].flat()) libc().close(socket);
    this.#sockets.clear();
    libc().close(this.epoll);
  }

  /** One that takes what comes from there alone; negative where the system has none. */
  #connected({ sockaddr }: Endpoint): number {
    const socket = this.open();
    if (socket < 0) return socket;
    if (!this.#bind(socket) || libc().connect(socket, sockaddr, sockaddr.length) < 0) {
      libc().close(socket);
      return -1;
    }
    this.#watch(socket, C.EPOLL_CTL_ADD, C.EPOLLIN);
    return socket;
  }

  /** The port is nobody else's: it may be bound again at this moment only, and by this user alone (socket(7)). */
  #bind(socket: number): boolean {
    const { sockaddr } = this.local;
    allowReuse(socket, true);
    allowReuse(this.shared, true);
    const result = libc().bind(socket, sockaddr, sockaddr.length);
    allowReuse(this.shared, false);
    return result === 0;
  }

  /** They have had their turn, and get none for a while: those whose packets are awaited do. */
  #passStrangersBy(): void {
    this.#watch(this.shared, C.EPOLL_CTL_MOD, 0);
    this.#pause = setTimeout(
      () => this.#watch(this.shared, C.EPOLL_CTL_MOD, C.EPOLLIN),
      STRANGERS_PAUSE,
    );
  }

  #watch(socket: number, operation: number, events: number): void {
    const event = epollEvent.allocate().set("events", events).set("data", BigInt(socket));
    check("epoll_ctl", libc().epoll_ctl(this.epoll, operation, socket, event.pointer));
  }
}

/**
 * Where packets of a peer come from. RDMA devices are sent to by one port, and send from any, to tell
 * flows apart (Annex A17, section A17.4.5.1): who is connected to port 0 takes what others do not.
 */
function sourcesOf(remote: Endpoint): Endpoint[] {
  return remote.port === ROCE_UDP_PORT ? [remote, new Endpoint(remote.address, 0)] : [remote];
}

function allowReuse(socket: number, allowed: boolean): void {
  const value = Int32Array.of(Number(allowed));
  const { SOL_SOCKET, SO_REUSEPORT } = C;
  check(
    "setsockopt",
    libc().setsockopt(socket, SOL_SOCKET, SO_REUSEPORT, value, value.byteLength),
  );
}
