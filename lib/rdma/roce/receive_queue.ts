import type { ReceiveWorkRequests } from "../work_request.ts";
import { ScatterList } from "./scatter_list.ts";

/** A receive work request in its place in the queue. */
export class ReceiveRequest {
  wrId = 0;
  readonly buffers: ScatterList;

  constructor(maxBuffers: number) {
    this.buffers = new ScatterList(maxBuffers);
  }

  take(requests: ReceiveWorkRequests, index: number): void {
    this.wrId = requests.wrIdOf(index);
    this.buffers.take(requests, index);
  }
}

/** The receive queue: a ring of requests that wait for messages. */
export class ReceiveQueue {
  readonly #requests: ReceiveRequest[];
  #first = 0;
  #count = 0;

  constructor(readonly capacity: number, maxBuffers: number) {
    this.#requests = Array.from({ length: capacity }, () => new ReceiveRequest(maxBuffers));
  }

  get isFull(): boolean {
    return this.#count === this.capacity;
  }

  post(requests: ReceiveWorkRequests, index: number): void {
    this.#requests[(this.#first + this.#count) % this.capacity]!.take(requests, index);
    this.#count += 1;
  }

  /** The request that the next message goes to; undefined when none is posted. */
  get next(): ReceiveRequest | undefined {
    return this.#count === 0 ? undefined : this.#requests[this.#first];
  }

  /** The next request is done. */
  consume(): void {
    this.#first = (this.#first + 1) % this.capacity;
    this.#count -= 1;
  }

  reset(): void {
    this.#first = this.#count = 0;
  }
}
