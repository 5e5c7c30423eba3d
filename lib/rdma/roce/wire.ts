/** What the transport needs of a network: datagrams in batches. Behind it stands a UDP socket, or a simulation. */
import { Memory } from "../../../ffi/memory.ts";
import type { Destination, Endpoint } from "./endpoint.ts";
import { unmaskBth } from "./headers.ts";
import { MAX_SEGMENTS } from "./icrc.ts";
import { ICRC_BYTES } from "./opcode.ts";

/** Bytes kept for a message: the longest that UDP can carry over IPv4 is 65507. */
export const MESSAGE_SLOT_BYTES = 65536;
const MAX_MESSAGE_BYTES = 65507;

/** Messages of one batch. */
export const BATCH_MESSAGES = 8;

/**
 * Packets to be sent. Those to one destination and of one size are put together into one message, which
 * the kernel or the NIC cuts into segments (UDP_SEGMENT of udp(7)); the last may be shorter.
 */
export class TransmitBatch implements Disposable {
  readonly #memory = new Memory(BATCH_MESSAGES * MESSAGE_SLOT_BYTES);
  readonly bytes = this.#memory.bytes;
  readonly view = new DataView(this.bytes.buffer);
  /** Where {@linkcode bytes} stands. */
  readonly address = this.#memory.address;
  /** Messages in this batch; message `i` begins at `i * MESSAGE_SLOT_BYTES`. */
  count = 0;
  /** Packets in this batch. */
  packets = 0;
  readonly lengths = new Int32Array(BATCH_MESSAGES);
  /** Bytes of a segment, by message. */
  readonly segmentBytes = new Int32Array(BATCH_MESSAGES);
  readonly segments = new Int32Array(BATCH_MESSAGES);
  readonly destinations: Destination[] = [];

  /** @param maxSegments of one message; 1 where messages cannot be cut */
  constructor(public maxSegments = MAX_SEGMENTS) {}

  /** Makes room for a packet; its offset in {@linkcode bytes}, or -1 when the batch is full. */
  begin(destination: Destination, packetBytes: number): number {
    const last = this.count - 1;
    if (last >= 0 && this.#fits(last, destination, packetBytes)) {
      const at = last * MESSAGE_SLOT_BYTES + this.lengths[last]!;
      this.lengths[last]! += packetBytes;
      this.segments[last]! += 1;
      this.packets += 1;
      return at;
    }
    if (this.count === BATCH_MESSAGES) return -1;
    const message = this.count++;
    this.lengths[message] = packetBytes;
    this.segmentBytes[message] = packetBytes;
    this.segments[message] = 1;
    this.destinations[message] = destination;
    this.packets += 1;
    return message * MESSAGE_SLOT_BYTES;
  }

  /** Ends the packet that {@linkcode begin} made room for at `at`: makes its ICRC. */
  end(at: number, packetBytes: number): void {
    const message = this.count - 1;
    const id = this.segments[message]! - 1;
    const covered = this.bytes.subarray(at, at + packetBytes - ICRC_BYTES);
    const icrc = this.destinations[message]!.icrc.icrc(covered, id);
    unmaskBth(this.view, at);
    this.view.setUint32(at + packetBytes - ICRC_BYTES, icrc, true);
  }

  clear(): void {
    this.count = 0;
    this.packets = 0;
  }

  [Symbol.dispose](): void {
    this.#memory[Symbol.dispose]();
  }

  #fits(message: number, destination: Destination, packetBytes: number): boolean {
    const size = this.segmentBytes[message]!;
    const length = this.lengths[message]!;
    return this.destinations[message] === destination && packetBytes <= size &&
      this.segments[message]! < this.maxSegments && length % size === 0 &&
      length + packetBytes <= MAX_MESSAGE_BYTES;
  }
}

/** Received messages: packets of one size from one source, as the kernel put them together (UDP_GRO of udp(7)). */
export class ReceiveBatch implements Disposable {
  readonly #memory = new Memory(BATCH_MESSAGES * MESSAGE_SLOT_BYTES);
  readonly bytes = this.#memory.bytes;
  readonly view = new DataView(this.bytes.buffer);
  /** Where {@linkcode bytes} stands. */
  readonly address = this.#memory.address;
  readonly lengths = new Int32Array(BATCH_MESSAGES);
  /** Bytes of a packet, by message; the last of a message may be shorter. */
  readonly segmentBytes = new Int32Array(BATCH_MESSAGES);
  /** Four words a message: the source address as in the packet, IPv4 in the first word alone. */
  readonly sources = new Uint32Array(4 * BATCH_MESSAGES);
  readonly sourcePorts = new Uint16Array(BATCH_MESSAGES);

  [Symbol.dispose](): void {
    this.#memory[Symbol.dispose]();
  }
}

/** One end of the network. */
export interface Wire extends Disposable {
  readonly local: Endpoint;
  /** Segments that one message may have; 1 where messages cannot be cut. It may fall while running. */
  readonly maxSegments: number;
  /** Sends messages from `first` on, and returns how many were taken: fewer when there is no room at present. */
  send(batch: TransmitBatch, first: number): number;
  /** Packets of this peer are awaited from now on, and get lost or wait for no other's. */
  attend(remote: Endpoint): void;
  /** They are awaited no more. */
  neglect(remote: Endpoint): void;
  /** Takes what has arrived without waiting, and returns the number of messages. */
  receive(batch: ReceiveBatch): number;
  /** Resolves to true when something has arrived, to false when the wire is being disposed. */
  readable(): Promise<boolean>;
}
