import { RdmaError } from "../../errors.ts";
import type { ReceiveWorkRequests } from "../work_request.ts";
import { requireBuffers, ScatterList } from "./scatter_list.ts";

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

  constructor(private readonly capacity: number, private readonly maxBuffers: number) {
    this.#requests = Array.from({ length: capacity }, () => new ReceiveRequest(maxBuffers));
  }

  /** @throws RdmaError when there is no room, or the request has more buffers than the queue was made for */
  post(requests: ReceiveWorkRequests, index: number): void {
    if (this.#count === this.capacity) {
      throw new RdmaError("receive_queue_full", `the receive queue of ${this.capacity} is full`);
    }
    requireBuffers(requests, index, this.maxBuffers);
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
