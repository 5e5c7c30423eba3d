import { forget, readable, setNonblocking } from "../../../ffi/epoll.ts";
import { addressOf, pointerAt, pointerOf } from "../../../ffi/layout.ts";
import { errno } from "../../../ffi/libc.ts";
import { FunctionCall } from "../../../ffi/libffi.ts";
import { ibvCompChannel, ibvContext, libibverbs } from "../../../ffi/libibverbs.ts";
import { type CompletionQueue, WorkCompletions } from "../completion_queue.ts";
import { VerbsError } from "./error.ts";
import { VerbsObject } from "./object.ts";

/** Completions taken by one poll. */
const batch = 32;

/** Milliseconds of polling before sleeping: at most, and at least. A sleep and its wake-up cost some 50 µs. */
const longestSpin = 0.1;
const shortestSpin = 0.005;

class CompletionChannel extends VerbsObject {
  readonly fd: number;

  constructor(context: Deno.PointerObject) {
    super(
      "ibv_create_comp_channel",
      libibverbs().ibv_create_comp_channel(context),
      "ibv_destroy_comp_channel",
      libibverbs().ibv_destroy_comp_channel,
    );
    this.fd = ibvCompChannel.at(this.pointer).get("fd");
    setNonblocking(this.fd);
  }

  override [Symbol.dispose](): void {
    if (!this.disposed) forget(this.fd);
    super[Symbol.dispose]();
  }
}

function createQueue(
  context: Deno.PointerObject,
  depth: number,
  channel: CompletionChannel,
): Deno.PointerObject {
  const queue = libibverbs().ibv_create_cq(context, depth, null, channel.pointer, 0);
  if (queue !== null) return queue;
  const error = new VerbsError("ibv_create_cq", errno());
  channel[Symbol.dispose]();
  throw error;
}

/** A completion queue with a completion channel of its own. */
export class VerbsCompletionQueue extends VerbsObject implements CompletionQueue {
  readonly completions = new WorkCompletions(batch);
  readonly address: number;
  readonly #channel: CompletionChannel;
  readonly #poll: FunctionCall;
  readonly #requestNotify: FunctionCall;
  readonly #event = new BigUint64Array(new ArrayBuffer(16));
  #spin = longestSpin;

  constructor(context: Deno.PointerObject, depth: number) {
    const channel = new CompletionChannel(context);
    super(
      "ibv_create_cq",
      createQueue(context, depth, channel),
      "ibv_destroy_cq",
      libibverbs().ibv_destroy_cq,
    );
    this.#channel = channel;
    const ops = ibvContext.at(context);
    const self = this.address = Number(addressOf(this.pointer));
    this.#poll = new FunctionCall(pointerAt(ops.get("ops.poll_cq"))!, [
      "pointer", // struct ibv_cq *cq
      "sint32", // int num_entries
      "pointer", // struct ibv_wc *wc
    ]).set(0, self).set(1, batch).set(2, Number(addressOf(pointerOf(this.completions.memory))));
    this.#requestNotify = new FunctionCall(pointerAt(ops.get("ops.req_notify_cq"))!, [
      "pointer", // struct ibv_cq *cq
      "sint32", // int solicited_only
    ]).set(0, self).set(1, 0);
  }

  poll(): number {
    this.assertOpen();
    const count = this.#poll.call();
    if (count < 0) throw new VerbsError("ibv_poll_cq", -count);
    return count;
  }

  async next(): Promise<number> {
    const spun = this.#pollForAWhile();
    if (spun > 0) return spun;
    while (!this.disposed) {
      this.#arm();
      // What came between the last poll and arming raises no event (ibv_req_notify_cq(3)).
      const count = this.poll();
      if (count > 0) return count;
      if (!await readable(this.#channel.fd)) return 0;
      this.#takeEvent();
    }
    return 0;
  }

  /** Polls for a time that grows when polling finds something and shrinks when it does not. */
  #pollForAWhile(): number {
    const until = performance.now() + this.#spin;
    do {
      const count = this.poll();
      if (count > 0) {
        this.#spin = Math.min(longestSpin, this.#spin * 2);
        return count;
      }
    } while (performance.now() < until);
    this.#spin = Math.max(shortestSpin, this.#spin / 2);
    return 0;
  }

  #arm(): void {
    const result = this.#requestNotify.call();
    if (result !== 0) throw new VerbsError("ibv_req_notify_cq", Math.abs(result));
  }

  #takeEvent(): void {
    const cq = pointerOf(this.#event);
    const context = pointerOf(this.#event.subarray(1));
    if (this.disposed) return;
    if (libibverbs().ibv_get_cq_event(this.#channel.pointer, cq, context) === 0) {
      // ibv_destroy_cq waits for events that are not acknowledged.
      libibverbs().ibv_ack_cq_events(this.pointer, 1);
    }
  }

  override [Symbol.dispose](): void {
    if (this.disposed) return;
    // The events end first, then the queue, then the channel it refers to.
    forget(this.#channel.fd);
    super[Symbol.dispose]();
    this.#channel[Symbol.dispose]();
  }
}
