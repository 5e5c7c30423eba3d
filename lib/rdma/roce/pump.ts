import { Breather } from "../breather.ts";
import type { RocePort } from "./port.ts";
import type { Wire } from "./wire.ts";

/** Milliseconds of looking for packets before sleeping: at most, and at least. A sleep and its wake-up cost some 50 µs. */
const LONGEST_SPIN = 0.25;
const SHORTEST_SPIN = 0.005;

/**
 * Keeps a port going on the event loop: works while there is something to do, looks for a short while
 * longer, then sleeps until packets arrive or a deadline passes. Idle, it costs nothing.
 */
export class Pump implements Disposable {
  readonly #port: RocePort;
  readonly #wire: Wire;
  #driving = false;
  #spin = LONGEST_SPIN;
  #timer: number | undefined;
  #timerDue = Infinity;
  #stopped = false;

  constructor(port: RocePort, wire: Wire) {
    this.#port = port;
    this.#wire = wire;
    this.#watch();
  }

  /** Something is to be sent, or a deadline has been set, perhaps outside of the pump. */
  wake(): void {
    if (this.#driving) return;
    if (!this.#port.hasReady) return this.#setTimer();
    // Not at once: whoever caused it may be in the middle of something.
    queueMicrotask(() => this.#drive());
  }

  [Symbol.dispose](): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  async #watch(): Promise<void> {
    while (!this.#stopped && await this.#wire.readable()) await this.#drive();
  }

  async #drive(): Promise<void> {
    if (this.#driving || this.#stopped) return;
    this.#driving = true;
    const breather = new Breather();
    let idleSince = Infinity;
    while (!this.#stopped) {
      if (this.#port.progress()) {
        // Looking longer pays where it finds something.
        if (idleSince !== Infinity) this.#spin = Math.min(LONGEST_SPIN, this.#spin * 2);
        idleSince = Infinity;
      } else if (!this.#port.hasReady) {
        const now = performance.now();
        idleSince = Math.min(idleSince, now);
        if (now - idleSince > this.#spin) break;
      }
      // Whoever awaits a completion goes on here; timers and other sockets below.
      await undefined;
      if (breather.due()) await breather.breathe();
    }
    this.#spin = Math.max(SHORTEST_SPIN, this.#spin / 2);
    this.#driving = false;
    this.#setTimer();
  }

  #setTimer(): void {
    const { deadline } = this.#port;
    if (this.#stopped || deadline >= this.#timerDue) return;
    clearTimeout(this.#timer);
    this.#timerDue = deadline;
    this.#timer = setTimeout(() => {
      this.#timerDue = Infinity;
      this.#drive();
    }, Math.max(0, deadline - performance.now()));
  }
}
