import { setImmediate } from "node:timers/promises";

/** Milliseconds for which a busy loop may keep the event loop waiting. */
const LONGEST = 2;

/**
 * Lets the event loop run now and then. A loop that awaits only what is ready already never leaves
 * the microtask queue, and timers, sockets and other sessions would starve.
 */
export class Breather {
  #last = performance.now();

  due(): boolean {
    return performance.now() - this.#last > LONGEST;
  }

  async breathe(): Promise<void> {
    await setImmediate();
    this.#last = performance.now();
  }
}
