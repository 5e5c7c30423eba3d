import { pointerAt } from "../../../ffi/layout.ts";
import { RdmaError } from "../../errors.ts";
import { Opcode, SendFlag, type SendWorkRequests } from "../work_request.ts";
import { psnAfter, psnDistance } from "./psn.ts";
import { requireBuffers, ScatterList } from "./scatter_list.ts";

/** READ requests ask for this many packets at most; a longer READ is made by several, so that its responses fit a window. */
export const READ_PIECE_PACKETS = 32;

/** READs and atomics under way at most: maxRdAtomic has 8 bits. A power of 2. */
const MAX_ANSWERS = 256;

function isAtomic(opcode: Opcode): boolean {
  return opcode === Opcode.COMPARE_AND_SWAP || opcode === Opcode.FETCH_AND_ADD;
}

function isAnswered(opcode: Opcode): boolean {
  return opcode === Opcode.READ || isAtomic(opcode);
}

/** A send work request in its place in the queue. */
export class SendRequest {
  opcode: Opcode = Opcode.SEND;
  flags = 0;
  wrId = 0;
  immediate = 0;
  /** Bytes of the message. */
  length = 0;
  remoteAddress = 0;
  rkey = 0;
  operandLow = 0;
  operandHigh = 0;
  swapLow = 0;
  swapHigh = 0;
  /** PSNs that the message takes; 0 until it is begun. */
  packets = 0;
  readonly buffers: ScatterList;
  /** Bytes copied when the request was posted, if it is inline. */
  readonly #inline: Uint8Array<ArrayBuffer>;

  /** @param inline keeps inline data; as long as they may be */
  constructor(maxBuffers: number, inline: Uint8Array<ArrayBuffer>) {
    this.buffers = new ScatterList(maxBuffers);
    this.#inline = inline;
  }

  get isInline(): boolean {
    return (this.flags & SendFlag.INLINE) !== 0;
  }

  /** Whether the peer answers with data: READ and atomics. */
  get isAnswered(): boolean {
    return isAnswered(this.opcode);
  }

  get isAtomic(): boolean {
    return isAtomic(this.opcode);
  }

  take(requests: SendWorkRequests, index: number): void {
    this.opcode = requests.operationOf(index);
    this.flags = requests.flagsOf(index);
    this.wrId = requests.wrIdOf(index);
    this.immediate = requests.immediateOf(index);
    this.remoteAddress = requests.remoteAddressOf(index);
    this.packets = 0;
    this.buffers.take(requests, index);
    this.length = this.buffers.length;
    if (this.isAtomic) {
      this.rkey = requests.atomicRkeyOf(index);
      this.operandLow = requests.operandOf(index, 0);
      this.operandHigh = requests.operandOf(index, 1);
      this.swapLow = requests.swapOf(index, 0);
      this.swapHigh = requests.swapOf(index, 1);
    } else {
      this.rkey = requests.rkeyOf(index);
    }
    if (this.isInline) this.#copyInline(requests, index);
  }

  /** Whether its regions are still there. */
  get isAlive(): boolean {
    return this.isInline || this.buffers.isAlive;
  }

  /** Copies a part of the message to `target` at `at`. The request must be alive. */
  gather(offset: number, length: number, target: Uint8Array, at: number): void {
    if (this.isInline) target.set(this.#inline.subarray(offset, offset + length), at);
    else this.buffers.gather(offset, length, target, at);
  }

  /** Inline data need no region: they are read where they stand, now. */
  #copyInline(requests: SendWorkRequests, index: number): void {
    let at = 0;
    for (let buffer = 0; buffer < requests.bufferCount(index); buffer++) {
      const length = requests.bufferLength(index, buffer);
      const source = pointerAt(BigInt(requests.bufferAddress(index, buffer)));
      if (source && length > 0) {
        new Deno.UnsafePointerView(source).copyInto(this.#inline.subarray(at, at + length));
      }
      at += length;
    }
  }
}

/**
 * The send queue with the requester's PSNs. `head` is the oldest request that is not complete, `cursor`
 * the next to be sent, `tail` where the next one is posted: counts of requests, each its place modulo
 * the capacity. Acknowledged and sent are packets, as sending again begins at any of them.
 */
export class SendQueue {
  head = 0;
  cursor = 0;
  tail = 0;
  /** Packets of the head's message that are acknowledged, or answered. */
  headPackets = 0;
  /** Packets of the cursor's message that were sent. */
  cursorPackets = 0;
  /** PSN of the oldest packet that is not acknowledged. */
  acknowledgedPsn = 0;
  /** PSN of the next packet. */
  nextPsn = 0;
  /** PSN after the last that was ever sent. */
  sentPsn = 0;
  /** PSNs after READ pieces and atomics under way, in turn. */
  readonly #answerEnds = new Int32Array(MAX_ANSWERS);
  #firstAnswer = 0;
  #answers = 0;
  readonly #requests: SendRequest[];

  constructor(
    readonly capacity: number,
    private readonly maxBuffers: number,
    private readonly maxInline: number,
  ) {
    const inline = new Uint8Array(new ArrayBuffer(capacity * maxInline));
    this.#requests = Array.from(
      { length: capacity },
      (_, place) =>
        new SendRequest(
          maxBuffers,
          maxInline === 0 ? inline : inline.subarray(place * maxInline, (place + 1) * maxInline),
        ),
    );
  }

  get isEmpty(): boolean {
    return this.tail === this.head;
  }

  /** Nothing is on its way: all that was sent is acknowledged, or is to be sent again. */
  get isRewound(): boolean {
    return this.nextPsn === this.acknowledgedPsn;
  }

  /** Requests whose answers are awaited: pieces of READs, and atomics. */
  get answersAwaited(): number {
    return this.#answers;
  }

  /** @throws RdmaError when there is no room, or the request has more than the queue was made for */
  post(requests: SendWorkRequests, index: number): void {
    if (this.tail - this.head === this.capacity) {
      throw new RdmaError(
        "send_queue_full",
        `the send queue of ${this.capacity} is full`,
        "take completions before posting more",
      );
    }
    requireBuffers(requests, index, this.maxBuffers);
    if ((requests.flagsOf(index) & SendFlag.INLINE) !== 0) this.#requireInline(requests, index);
    this.at(this.tail).take(requests, index);
    this.tail += 1;
  }

  at(position: number): SendRequest {
    return this.#requests[position % this.capacity]!;
  }

  /** Begins to count at `psn`, with nothing queued. */
  reset(psn: number): void {
    this.head = this.cursor = this.tail = 0;
    this.headPackets = this.cursorPackets = 0;
    this.acknowledgedPsn = this.nextPsn = this.sentPsn = psn;
    this.#answers = 0;
  }

  /** `packets` of the cursor's message were sent, under as many PSNs. */
  advanceCursor(packets: number): void {
    const request = this.at(this.cursor);
    this.nextPsn = psnAfter(this.nextPsn, packets);
    if (psnDistance(this.sentPsn, this.nextPsn) > 0) this.sentPsn = this.nextPsn;
    this.cursorPackets += packets;
    if (request.isAnswered) this.#expectAnswer();
    if (this.cursorPackets === request.packets) {
      this.cursor += 1;
      this.cursorPackets = 0;
    }
  }

  /** `packets` of the head's message are acknowledged. True when that is all of it: the caller completes it. */
  advanceHead(packets: number): boolean {
    const request = this.at(this.head);
    this.headPackets += packets;
    this.acknowledgedPsn = psnAfter(this.acknowledgedPsn, packets);
    const complete = this.headPackets === request.packets;
    if (complete) {
      this.head += 1;
      this.headPackets = 0;
    }
    this.#forgetAnswers();
    // What was to be sent again has been acknowledged meanwhile.
    if (psnDistance(this.nextPsn, this.acknowledgedPsn) > 0) this.rewind();
    return complete;
  }

  /** What is not acknowledged is to be sent again. */
  rewind(): void {
    this.cursor = this.head;
    this.cursorPackets = this.headPackets;
    this.nextPsn = this.acknowledgedPsn;
    this.#answers = 0;
  }

  #requireInline(requests: SendWorkRequests, index: number): void {
    if (isAnswered(requests.operationOf(index))) {
      throw new RdmaError("inline_answer", "what a READ or an atomic answers cannot be inline");
    }
    let length = 0;
    for (let buffer = 0; buffer < requests.bufferCount(index); buffer++) {
      length += requests.bufferLength(index, buffer);
    }
    if (length <= this.maxInline) return;
    throw new RdmaError(
      "inline_length",
      `${length} bytes are more than the ${this.maxInline} that may be inline`,
      "create the queue pair with a larger maxInline",
    );
  }

  #expectAnswer(): void {
    this.#answerEnds[(this.#firstAnswer + this.#answers) & (MAX_ANSWERS - 1)] = this.nextPsn;
    this.#answers += 1;
  }

  #forgetAnswers(): void {
    while (
      this.#answers > 0 &&
      psnDistance(this.#answerEnds[this.#firstAnswer]!, this.acknowledgedPsn) >= 0
    ) {
      this.#firstAnswer = (this.#firstAnswer + 1) & (MAX_ANSWERS - 1);
      this.#answers -= 1;
    }
  }
}
