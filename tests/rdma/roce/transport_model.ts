/** What requests on a queue pair do, and what must be true of them when nothing happens any more. */
import { assert, assertEquals } from "@std/assert";
import { Opcode, SendFlag } from "../../../lib/rdma/work_request.ts";
import { MAX_INLINE, type Outcome, QUEUE_DEPTH, type SimulatedEnd } from "./simulated_end.ts";
import { randomNumbers, type SimulatedNetwork } from "./simulated_network.ts";

/** A request, as drawn. */
export interface Request {
  readonly operation: Opcode;
  /** Those of atomics have 8. */
  readonly bytes: number;
  readonly signaled: boolean;
  readonly fenced: boolean;
  /** Where its kind and its size allow it. */
  readonly inline: boolean;
  /** Whether a COMPARE_AND_SWAP compares with what is there. */
  readonly equal: boolean;
  /** Milliseconds after the request before it. */
  readonly pause: number;
}

/** Bytes that no READ or WRITE exceeds. */
export const LONGEST = 10_000;
/** Bytes that no message exceeds. */
export const LONGEST_MESSAGE = 2000;
/** Most requests in one direction. */
export const MOST_REQUESTS = 12;

/** Bytes of each end's memory: its own requests use the first half, the peer's the second. */
export const END_BYTES = 2 * (MOST_REQUESTS + 1) * (LONGEST + 16);
const PEERS_HALF = END_BYTES / 2;

const isSend = ({ operation }: Request) =>
  operation === Opcode.SEND || operation === Opcode.SEND_WITH_IMMEDIATE;
const isWrite = ({ operation }: Request) =>
  operation === Opcode.WRITE || operation === Opcode.WRITE_WITH_IMMEDIATE;
const hasImmediate = ({ operation }: Request) =>
  operation === Opcode.SEND_WITH_IMMEDIATE || operation === Opcode.WRITE_WITH_IMMEDIATE;
const isAtomic = ({ operation }: Request) =>
  operation === Opcode.COMPARE_AND_SWAP || operation === Opcode.FETCH_AND_ADD;
/** Takes a receive of the peer's. */
const isMessage = (request: Request) => isSend(request) || hasImmediate(request);

const immediateOf = (index: number) => 0xabcd_0000 + index;

/** A request with its places in the memory of both ends. */
interface Placed extends Request {
  /** At the requester: what it sends, or where the answer goes. */
  readonly local: number;
  /** At the responder: what it writes, reads or receives into. */
  readonly remote: number;
}

/** Bytes that may be changed, or must have been. */
interface Change {
  readonly end: SimulatedEnd;
  readonly at: number;
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly isDone: boolean;
}

/** Requests of one end, which the other answers. */
export class Direction {
  readonly #placed: readonly Placed[];
  /** The peer's 64 bits that all atomics change. */
  readonly #word: number;

  constructor(
    private readonly from: SimulatedEnd,
    private readonly to: SimulatedEnd,
    readonly requests: readonly Request[],
  ) {
    // Whole words, and at least 8 bytes between one and the next that nobody may touch.
    const step = LONGEST + 16;
    this.#placed = requests.map((request, index) => ({
      ...request,
      local: index * step,
      remote: PEERS_HALF + index * step,
    }));
    this.#word = PEERS_HALF + MOST_REQUESTS * step;
  }

  /** Posts the peer's receives: `atOnce` of them now, and the others later. */
  postReceives(network: SimulatedNetwork, atOnce: number, milliseconds: number): void {
    const { to: { queuePair, receives, region } } = this;
    this.#messages().forEach(({ remote }, index) => {
      const post = () => queuePair.postReceive(receives, index);
      receives.prepare(index, index)
        .buffer(index, region.address + remote, LONGEST_MESSAGE, region.lkey);
      if (index < atOnce) post();
      else network.after(milliseconds * (index - atOnce + 1), post);
    });
  }

  /** Posts the requests, each in its time. */
  postSends(network: SimulatedNetwork): void {
    const originals = this.#originals();
    let time = 0;
    this.#placed.forEach((request, index) => {
      this.#prepare(request, index, originals[index]!);
      time += request.pause;
      network.after(time, () => this.from.queuePair.postSend(this.from.sends, index));
    });
  }

  /**
   * Checks all completions, and the word that the atomics changed.
   *
   * @returns bytes that were changed or may have been, of both ends
   */
  check(): Change[] {
    const done = this.#checkSent();
    const received = this.#checkReceived(done);
    const changes = this.#placed.flatMap((request, index) =>
      this.#changes(request, index, index < done, received)
    );
    return [...changes, ...this.#checkAtomics(done)];
  }

  #prepare(request: Placed, index: number, original: bigint): void {
    const { operation, signaled, fenced, inline, bytes, local, remote } = request;
    const { sends, region } = this.from;
    const { address, rkey } = this.to.region;
    const isInline = inline && bytes <= MAX_INLINE && (isSend(request) || isWrite(request));
    const flags = (signaled ? SendFlag.SIGNALED : 0) | (fenced ? SendFlag.FENCE : 0) |
      (isInline ? SendFlag.INLINE : 0);
    sends.prepare(index, index, operation, flags).immediate(index, immediateOf(index));
    if (isAtomic(request)) {
      const { operand, swap } = operandsOf(request, index, original);
      sends.atomic(index, address + this.#word, rkey, operand, swap);
    } else {
      sends.remote(index, address + remote, rkey);
    }
    sends.buffer(index, region.address + local, bytes, region.lkey);
  }

  /** Requests that take a receive, in their order, with the places that those have. */
  #messages(): Placed[] {
    return this.#placed.filter(isMessage);
  }

  /** Checks completions; returns how many requests were done for certain. */
  #checkSent(): number {
    const { sent } = this.from;
    const count = this.requests.length;
    const failed = sent.findIndex(({ status }) => status !== "IBV_WC_SUCCESS");
    const succeeded = failed < 0 ? sent : sent.slice(0, failed);
    const ends = failed < 0 ? [] : sent.slice(failed);
    const first = ends[0];
    const done = first ? first.wrId : count;
    if (first) {
      // Why, once, and then the others in their order.
      assert(
        first.status === "IBV_WC_RETRY_EXC_ERR" || first.status === "IBV_WC_RNR_RETRY_EXC_ERR",
        first.status,
      );
      const others = ends.slice(1).map(({ wrId, status }) => `${wrId} ${status}`);
      const flushed = Array.from(
        { length: count - done - 1 },
        (_, index) => `${done + 1 + index} IBV_WC_WR_FLUSH_ERR`,
      );
      assertEquals(others, flushed);
    }
    assertEquals(this.from.queuePair.state, first ? "ERR" : "RTS");
    const signaled = this.#placed.flatMap(({ signaled }, index) =>
      signaled && index < done ? [index] : []
    );
    assertEquals(succeeded.map(({ wrId }) => wrId), signaled);
    for (const { wrId, bytes } of succeeded) assertEquals(bytes, this.#placed[wrId]!.bytes);
    return done;
  }

  /** Checks what the peer received, whole messages in their order; returns how many. */
  #checkReceived(done: number): number {
    const messages = this.#messages();
    const failed = this.to.received.findIndex(({ status }) => status !== "IBV_WC_SUCCESS");
    const received = failed < 0 ? this.to.received : this.to.received.slice(0, failed);
    const flushed = failed < 0 ? [] : this.to.received.slice(failed);
    assertEquals(flushed.map(({ status }) => status), flushed.map(() => "IBV_WC_WR_FLUSH_ERR"));
    const expected = messages.slice(0, received.length).map((request, wrId): Outcome => ({
      wrId,
      status: "IBV_WC_SUCCESS",
      bytes: request.bytes,
      ...(hasImmediate(request) && { immediate: immediateOf(this.#placed.indexOf(request)) }),
    }));
    assertEquals(received, expected);
    const certain = this.#placed.slice(0, done).filter(isMessage).length;
    assert(received.length >= certain, `${received.length} of ${certain} messages came`);
    return received.length;
  }

  #changes(request: Placed, index: number, isDone: boolean, received: number): Change[] {
    const { from, to } = this;
    const { local, remote, bytes } = request;
    const message = this.#messages().indexOf(request);
    const isReceived = message >= 0 && message < received;
    if (isSend(request) || isWrite(request)) {
      const content = initial(from).subarray(local, local + bytes);
      return [{ end: to, at: remote, bytes: content, isDone: isDone || isReceived }];
    }
    if (isAtomic(request)) {
      const original = new Uint8Array(8);
      new DataView(original.buffer).setBigUint64(0, this.#originals()[index]!, true);
      return [{ end: from, at: local, bytes: original, isDone }];
    }
    const content = initial(to).subarray(remote, remote + bytes);
    return [{ end: from, at: local, bytes: content, isDone }];
  }

  /** The word must be as so many of the atomics make it that none was applied twice, or left out. */
  #checkAtomics(done: number): Change[] {
    const originals = this.#originals();
    const now = new DataView(this.to.memory.bytes.buffer).getBigUint64(this.#word, true);
    const possible = originals.slice(done);
    assert(possible.includes(now), `${now} is none of ${possible}`);
    const bytes = this.to.memory.bytes.slice(this.#word, this.#word + 8);
    return [{ end: this.to, at: this.#word, bytes, isDone: true }];
  }

  /** What the word is before each request, and in the end. */
  #originals(): bigint[] {
    const start = new DataView(initial(this.to).buffer).getBigUint64(this.#word, true);
    const values = [start];
    this.#placed.forEach((request, index) => {
      const before = values.at(-1)!;
      const { operand, swap } = operandsOf(request, index, before);
      values.push(
        request.operation === Opcode.FETCH_AND_ADD
          ? BigInt.asUintN(64, before + operand)
          : request.operation === Opcode.COMPARE_AND_SWAP && operand === before
          ? swap
          : before,
      );
    });
    return values;
  }
}

/** Operands that differ, with carries from the lower to the upper 32 bits. */
function operandsOf(
  { operation, equal }: Request,
  index: number,
  before: bigint,
): { operand: bigint; swap: bigint } {
  const number = 0x1_8000_0001n * BigInt(index + 1);
  if (operation === Opcode.FETCH_AND_ADD) return { operand: number, swap: 0n };
  return { operand: equal ? before : before ^ number, swap: ~number & 0xffff_ffff_ffff_ffffn };
}

const random = randomNumbers(1);
const randomBytes = Uint8Array.from({ length: 2 * END_BYTES }, () => 256 * random());

/** What an end's memory holds in the beginning: random bytes, different ones at each end. */
export function initial({ psn }: SimulatedEnd): Uint8Array<ArrayBuffer> {
  const start = psn % END_BYTES;
  return randomBytes.slice(start, start + END_BYTES);
}

/** Checks that an end's memory has the changes that were made, and no other. */
export function checkMemory(end: SimulatedEnd, changes: readonly Change[]): void {
  const before = initial(end);
  const expected = before.slice();
  const { bytes: now } = end.memory;
  for (const change of changes) {
    if (change.end !== end) continue;
    for (const [index, byte] of change.bytes.entries()) {
      const at = change.at + index;
      // What was not done for certain may be done in part.
      expected[at] = change.isDone || now[at] === byte ? byte : before[at]!;
    }
  }
  const wrong = expected.findIndex((byte, at) => now[at] !== byte);
  assert(wrong < 0, `byte ${wrong} is ${now[wrong]}, not ${expected[wrong]}`);
}

// Each direction needs a place in the queues for each of its requests.
assert(MOST_REQUESTS <= QUEUE_DEPTH);
