/**
 * How much may be on its way to one peer. RoCEv2 leaves this to the network (priority flow control,
 * DCQCN); over plain UDP it must adapt to what the path and the peer's socket hold, or go-back-N
 * would send everything again and again. Additive increase, multiplicative decrease, with slow start
 * (after RFC 5681), in bytes and shared by all queue pairs to that peer.
 */

/** Bytes. What a socket's buffer holds by default, also of packets that come one by one. */
const INITIAL_WINDOW = 128 * 1024;
const SMALLEST_WINDOW = 16 * 1024;
/** Keeps some 150 µs of 25 Gbit/s on the way. */
const LARGEST_WINDOW = 512 * 1024;

/** Milliseconds within which losses count as one: they are of one round trip. */
const LOSS_EPOCH = 1;

/** A peer's window. `Waiting` is who is told when there is room again. */
export class CongestionWindow<Waiting> {
  /** Bytes that may be unacknowledged. */
  bytes = INITIAL_WINDOW;
  #inFlight = 0;
  #threshold = LARGEST_WINDOW;
  #lastLoss = -Infinity;
  readonly #waiting = new Set<Waiting>();

  /** @param resume called for each that waited, when there is room again */
  constructor(private readonly resume: (waiting: Waiting) => void) {}

  /** Bytes that may be sent now; negative when the window has shrunk meanwhile. */
  get room(): number {
    return this.bytes - this.#inFlight;
  }

  /** Bytes are on their way, or with a negative number no more. */
  adjust(bytes: number): void {
    this.#inFlight += bytes;
    if (bytes < 0 && this.#waiting.size > 0 && this.room > 0) {
      for (const waiting of this.#waiting) this.resume(waiting);
      this.#waiting.clear();
    }
  }

  /** Tells `waiting` when there is room. */
  await(waiting: Waiting): void {
    this.#waiting.add(waiting);
  }

  forget(waiting: Waiting): void {
    this.#waiting.delete(waiting);
  }

  acknowledged(bytes: number): void {
    const growth = this.bytes < this.#threshold ? bytes : bytes * bytes / this.bytes;
    this.bytes = Math.min(LARGEST_WINDOW, this.bytes + growth);
  }

  /** @param now milliseconds */
  lost(now: number): void {
    if (now - this.#lastLoss < LOSS_EPOCH) return;
    this.#lastLoss = now;
    this.#threshold = this.bytes = Math.max(SMALLEST_WINDOW, this.bytes / 2);
  }
}
