/** A network in this process with faults that are drawn at random and a time of its own: each run is as its seed wants it. */
import type { Endpoint } from "../../../lib/rdma/roce/endpoint.ts";
import { MAX_SEGMENTS } from "../../../lib/rdma/roce/icrc.ts";
import type { RocePort } from "../../../lib/rdma/roce/port.ts";
import {
  BATCH_MESSAGES,
  MESSAGE_SLOT_BYTES,
  type ReceiveBatch,
  type TransmitBatch,
  type Wire,
} from "../../../lib/rdma/roce/wire.ts";

/** What becomes of packets. Probabilities are from 0 to 1. */
export interface Faults {
  readonly loss: number;
  readonly duplication: number;
  /** One bit is changed: what any ICRC finds. */
  readonly corruption: number;
  /** Milliseconds that every packet takes. */
  readonly latency: number;
  /** Milliseconds that a packet may take longer, at random: more than the time between packets reorders them. */
  readonly jitter: number;
  /** Milliseconds between arrivals: what comes meanwhile comes at once. 0 for each in its own time. */
  readonly interval: number;
  /** That a wire takes fewer messages than it is given. */
  readonly refusal: number;
}

export const NO_FAULTS: Faults = {
  loss: 0,
  duplication: 0,
  corruption: 0,
  latency: 0.01,
  jitter: 0,
  interval: 0,
  refusal: 0,
};

/** A packet on its way. */
interface Datagram {
  readonly from: Endpoint;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** Something that happens at its time. */
interface Happening {
  readonly time: number;
  readonly run: () => void;
}

/** Steps after which a run counts as never ending. */
const MAX_STEPS = 100_000;

/** Numbers from 0 to 1 by a seed (mulberry32). */
export function randomNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b_79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Carries packets between its wires, and lets the time pass. */
export class SimulatedNetwork {
  /** Milliseconds. */
  now = 0;
  /** Called with every packet that a wire takes, before its fate is drawn. */
  onPacket: (bytes: Uint8Array<ArrayBuffer>, to: Endpoint) => void = () => {};
  readonly #wires = new Map<string, SimulatedWire>();
  readonly #random: () => number;
  #happenings: Happening[] = [];

  constructor(readonly faults: Faults, seed: number) {
    this.#random = randomNumbers(seed);
  }

  /** The wire of an endpoint. */
  attach(local: Endpoint): SimulatedWire {
    const wire = new SimulatedWire(this, local);
    this.#wires.set(String(local), wire);
    return wire;
  }

  /** Does something later. */
  after(milliseconds: number, run: () => void): void {
    this.#happenings.push({ time: this.now + milliseconds, run });
  }

  happens(probability: number): boolean {
    return this.#random() < probability;
  }

  /** Sends a packet, to meet its fate. `bytes` are the network's from now on. */
  carry(from: Endpoint, to: Endpoint, bytes: Uint8Array<ArrayBuffer>): void {
    this.onPacket(bytes, to);
    const { loss, duplication, corruption } = this.faults;
    const copies = this.happens(duplication) ? 2 : 1;
    for (let copy = 0; copy < copies; copy++) {
      if (this.happens(loss)) continue;
      const arriving = bytes.slice();
      if (this.happens(corruption)) this.#corrupt(arriving);
      this.after(
        this.#delay(),
        () => this.#wires.get(String(to))?.arrive({ from, bytes: arriving }),
      );
    }
  }

  /**
   * Lets ports work and the time pass until nothing more happens, or until a time has come.
   *
   * @param step called whenever ports have done something, and may have made completions
   */
  run(ports: readonly RocePort[], step: () => void, until = Infinity): void {
    for (let steps = 0; steps < MAX_STEPS; steps++) {
      const isBusy = ports.map((port) => port.progress()).includes(true);
      step();
      if (isBusy) continue;
      const next = Math.min(
        ...this.#happenings.map(({ time }) => time),
        ...ports.map(({ deadline }) => deadline),
      );
      if (next === Infinity || next > until) return;
      this.now = Math.max(this.now, next);
      this.#happen();
    }
    throw new Error(`the ports do not come to rest; it is ${this.now} ms`);
  }

  #happen(): void {
    const due = this.#happenings.filter(({ time }) => time <= this.now);
    this.#happenings = this.#happenings.filter(({ time }) => time > this.now);
    due.sort((one, other) => one.time - other.time).forEach(({ run }) => run());
  }

  /** Milliseconds until a packet arrives. */
  #delay(): number {
    const { latency, jitter, interval } = this.faults;
    const delay = latency + jitter * this.#random();
    if (interval === 0) return delay;
    return Math.ceil((this.now + delay) / interval) * interval - this.now;
  }

  #corrupt(bytes: Uint8Array<ArrayBuffer>): void {
    const bit = Math.floor(this.#random() * 8 * bytes.length);
    bytes[bit >> 3]! ^= 1 << (bit & 7);
  }
}

/** One end of the network. */
export class SimulatedWire implements Wire {
  readonly maxSegments = MAX_SEGMENTS;
  readonly #arrived: Datagram[] = [];

  constructor(private readonly network: SimulatedNetwork, readonly local: Endpoint) {}

  arrive(datagram: Datagram): void {
    this.#arrived.push(datagram);
  }

  send(batch: TransmitBatch, first: number): number {
    for (let message = first; message < batch.count; message++) {
      if (this.network.happens(this.network.faults.refusal)) return message - first;
      const { remote } = batch.destinations[message]!;
      const start = message * MESSAGE_SLOT_BYTES;
      const end = start + batch.lengths[message]!;
      const size = batch.segmentBytes[message]!;
      for (let at = start; at < end; at += size) {
        this.network.carry(this.local, remote, batch.bytes.slice(at, Math.min(at + size, end)));
      }
    }
    return batch.count - first;
  }

  /** Nothing is lost here but by chance. */
  attend(): void {}

  neglect(): void {}

  receive(batch: ReceiveBatch): number {
    const datagrams = this.#arrived.splice(0, BATCH_MESSAGES);
    datagrams.forEach(({ from, bytes }, message) => {
      batch.bytes.set(bytes, message * MESSAGE_SLOT_BYTES);
      batch.lengths[message] = batch.segmentBytes[message] = bytes.length;
      batch.sources.set(from.words, 4 * message);
      batch.sourcePorts[message] = from.port;
    });
    return datagrams.length;
  }

  /** Ports are told by {@linkcode SimulatedNetwork.run} to work. */
  readable(): Promise<boolean> {
    return Promise.resolve(false);
  }

  [Symbol.dispose](): void {}
}
