import { RdmaError } from "../../errors.ts";
import type { AsyncEvent } from "../device.ts";
import type { CompletionPort, RoceCompletionQueue } from "./completion_queue.ts";
import { CongestionWindow } from "./congestion.ts";
import type { PortServices } from "./connection.ts";
import { Counter, Counters } from "./counters.ts";
import { Destination, type Endpoint } from "./endpoint.ts";
import { Packet } from "./headers.ts";
import { drawUnused, RegionTable } from "./memory_region.ts";
import { MESSAGE_SLOT_BYTES, ReceiveBatch, TransmitBatch, type Wire } from "./wire.ts";

/**
 * Packets that a queue pair sends in its turn: as many of the largest as make one message of the
 * socket. One that has much to send does not have those wait longer that have little.
 */
const TURN_PACKETS = 16;

/** Packets that a port sends before it looks again what has arrived. */
const PROGRESS_PACKETS = 128;

/** Milliseconds until a socket that took no more is tried again. */
const BLOCKED_RETRY = 1;

/** Queue pair numbers have 24 bits; 0 and 1 are special, and all ones is multicast (IBTA volume 1, section 3.5.11). */
const QPN_BITS = 24;
const SMALLEST_QPN = 2;
const MULTICAST_QPN = 0xff_ffff;

/** What a port knows of its queue pairs. */
export interface PortQueuePair {
  readonly qpn: number;
  /** In the list of those that have something to send; the port's alone. */
  isReady: boolean;
  readonly deadline: number;
  receive(
    packet: Packet,
    batch: ReceiveBatch,
    message: number,
    segment: number,
    at: number,
    length: number,
  ): void;
  transmit(budget: number): number;
  expire(): void;
  usesQueue(queue: RoceCompletionQueue): boolean;
  fail(): void;
}

/** A peer's address and port, and the window that all queue pairs to it share. */
export interface Peer {
  readonly destination: Destination;
  readonly window: CongestionWindow<PortQueuePair>;
}

/**
 * The port: passes packets to queue pairs, lets them send in turn, and looks after their deadlines.
 * All it does, it does in {@linkcode progress} and {@linkcode transmitNow}, without waiting.
 */
export class RocePort implements PortServices, CompletionPort, Disposable {
  readonly regions = new RegionTable();
  /** Milliseconds, as of the progress under way. */
  now: number;
  /** When {@linkcode progress} is due at the latest. Milliseconds. */
  deadline = Infinity;
  readonly #wire: Wire;
  readonly #clock: () => number;
  readonly #onEvent: (event: AsyncEvent) => void;
  readonly #received = new ReceiveBatch();
  readonly #outgoing: TransmitBatch;
  readonly #packet = new Packet();
  readonly #queuePairs = new Map<number, PortQueuePair>();
  readonly #peers = new Map<string, Peer & { users: number }>();
  readonly #timed = new Set<PortQueuePair>();
  /** Queue pairs that may have something to send, in turn. */
  readonly #ready: PortQueuePair[] = [];
  /** The first message of the batch that the wire has not taken. */
  #unsent = 0;
  /** The wire took less than it was given, and is tried again later. */
  #blocked = false;
  #running = false;
  /** Called when something is left to do outside of {@linkcode progress}. */
  onWork: () => void = () => {};

  /** @param clock milliseconds, never backwards */
  constructor(
    wire: Wire,
    clock: () => number,
    onEvent: (event: AsyncEvent) => void,
    readonly counters = new Counters(),
  ) {
    this.#wire = wire;
    this.#clock = clock;
    this.#onEvent = onEvent;
    this.#outgoing = new TransmitBatch(wire.maxSegments);
    this.now = clock();
  }

  get local(): Endpoint {
    return this.#wire.local;
  }

  get transmitBytes(): Uint8Array<ArrayBuffer> {
    return this.#outgoing.bytes;
  }

  get transmitView(): DataView<ArrayBuffer> {
    return this.#outgoing.view;
  }

  /** Queue pairs have something to send that may be sent now. */
  get hasReady(): boolean {
    return !this.#blocked && this.#ready.length > 0;
  }

  /** Receives and sends what there is, up to a limit; whether there was anything. */
  progress(): boolean {
    if (this.#running) return false;
    this.#running = true;
    try {
      this.now = this.#clock();
      const received = this.#receive();
      this.#expire();
      const sent = this.#transmit();
      return received || sent;
    } finally {
      this.#running = false;
      this.onWork();
    }
  }

  /** Sends what the queue pair has, without looking what has arrived. */
  transmitNow(queuePair: PortQueuePair): void {
    if (this.#running) return this.schedule(queuePair);
    this.#running = true;
    try {
      this.now = this.#clock();
      this.schedule(queuePair);
      this.#transmit();
    } finally {
      this.#running = false;
      this.onWork();
    }
  }

  beginPacket(destination: Destination, packetBytes: number): number {
    if (this.#blocked) return -1;
    const at = this.#outgoing.begin(destination, packetBytes);
    if (at >= 0) return at;
    return this.#flush() ? this.#outgoing.begin(destination, packetBytes) : -1;
  }

  endPacket(at: number, packetBytes: number): void {
    this.#outgoing.end(at, packetBytes);
  }

  /** Adds a queue pair and draws its number. */
  add(queuePair: PortQueuePair): number {
    const taken = {
      has: (qpn: number) => qpn === MULTICAST_QPN || this.#queuePairs.has(qpn),
    };
    const qpn = drawUnused(QPN_BITS, taken, SMALLEST_QPN);
    this.#queuePairs.set(qpn, queuePair);
    return qpn;
  }

  remove(queuePair: PortQueuePair): void {
    this.#queuePairs.delete(queuePair.qpn);
    this.#timed.delete(queuePair);
  }

  /** The peer behind an endpoint; give it back by {@linkcode leave}. */
  reach(endpoint: Endpoint): Peer {
    const name = String(endpoint);
    let peer = this.#peers.get(name);
    if (!peer) {
      peer = {
        destination: new Destination(this.local, endpoint),
        window: new CongestionWindow((queuePair) => this.schedule(queuePair)),
        users: 0,
      };
      this.#peers.set(name, peer);
      this.#wire.attend(endpoint);
    }
    peer.users += 1;
    return peer;
  }

  leave({ remote }: Destination): void {
    const name = String(remote);
    const peer = this.#peers.get(name);
    if (!peer || --peer.users > 0) return;
    this.#peers.delete(name);
    this.#wire.neglect(remote);
  }

  /** The queue pair may have something to send. */
  schedule(queuePair: PortQueuePair): void {
    if (queuePair.isReady) return;
    queuePair.isReady = true;
    this.#ready.push(queuePair);
    if (!this.#running) this.onWork();
  }

  /** The queue pair has to be looked at by `deadline`; Infinity for no more. Milliseconds. */
  arm(queuePair: PortQueuePair, deadline: number): void {
    if (deadline === Infinity) {
      this.#timed.delete(queuePair);
      return;
    }
    this.#timed.add(queuePair);
    if (deadline < this.deadline) this.deadline = deadline;
    if (!this.#running) this.onWork();
  }

  report(event: AsyncEvent): void {
    this.#onEvent(event);
  }

  /** A completion had no room: its queue is of no use, nor are the queue pairs on it (IBTA volume 1, section 11.6.3.1). */
  overflown(queue: RoceCompletionQueue): void {
    this.#onEvent({ name: "IBV_EVENT_CQ_ERR", completionQueue: queue.address, fatal: true });
    for (const queuePair of [...this.#queuePairs.values()]) {
      if (queuePair.usesQueue(queue)) queuePair.fail();
    }
  }

  /** @throws RdmaError while there are queue pairs */
  [Symbol.dispose](): void {
    if (this.#queuePairs.size > 0) {
      throw new RdmaError("port_in_use", `the port has ${this.#queuePairs.size} queue pairs`);
    }
    this.#received[Symbol.dispose]();
    this.#outgoing[Symbol.dispose]();
  }

  #receive(): boolean {
    const batch = this.#received;
    const messages = this.#wire.receive(batch);
    for (let message = 0; message < messages; message++) {
      const start = message * MESSAGE_SLOT_BYTES;
      const end = start + batch.lengths[message]!;
      const size = batch.segmentBytes[message]!;
      for (let at = start, segment = 0; at < end; at += size, segment++) {
        this.#take(message, segment, at, Math.min(size, end - at));
      }
    }
    return messages > 0;
  }

  #take(message: number, segment: number, at: number, length: number): void {
    this.counters.count(Counter.RX_PACKETS);
    const packet = this.#packet;
    if (!packet.decode(this.#received.view, at, length)) {
      return this.counters.count(Counter.MALFORMED_PACKETS);
    }
    const queuePair = this.#queuePairs.get(packet.destQpn);
    if (!queuePair) return this.counters.count(Counter.UNKNOWN_QUEUE_PAIR);
    queuePair.receive(packet, this.#received, message, segment, at, length);
  }

  #expire(): void {
    if (this.now < this.deadline) return;
    this.deadline = Infinity;
    for (const queuePair of [...this.#timed]) {
      if (queuePair.deadline <= this.now) queuePair.expire();
      if (queuePair.deadline === Infinity) this.#timed.delete(queuePair);
      else if (queuePair.deadline < this.deadline) this.deadline = queuePair.deadline;
    }
  }

  /** Lets queue pairs send in turn, then hands the packets to the wire; whether there were any. */
  #transmit(): boolean {
    if (this.#blocked && !this.#flush()) return false;
    const ready = this.#ready;
    let rest = PROGRESS_PACKETS;
    let served = 0;
    while (rest > 0 && served < ready.length && !this.#blocked) {
      const queuePair = ready[served++]!;
      queuePair.isReady = false;
      const sent = queuePair.transmit(TURN_PACKETS);
      rest -= sent;
      // It may have more: then it comes after all others. If not, its next turn is short.
      if (sent > 0 || this.#blocked) this.schedule(queuePair);
    }
    ready.copyWithin(0, served);
    ready.length -= served;
    const sent = this.#outgoing.count > 0;
    if (sent) this.#flush();
    return sent;
  }

  /** Hands the batch to the wire. False when the wire has not taken all of it: the rest waits. */
  #flush(): boolean {
    const batch = this.#outgoing;
    this.#unsent += this.#wire.send(batch, this.#unsent);
    this.#blocked = this.#unsent < batch.count;
    if (this.#blocked) {
      this.deadline = Math.min(this.deadline, this.now + BLOCKED_RETRY);
      return false;
    }
    this.counters.count(Counter.TX_PACKETS, batch.packets);
    batch.clear();
    batch.maxSegments = this.#wire.maxSegments;
    this.#unsent = 0;
    return true;
  }
}
