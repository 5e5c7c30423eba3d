import { setImmediate } from "node:timers";

/** Milliseconds for which a busy loop may keep the event loop waiting. */
const LONGEST = 2;

/** How many wait for the event loop to run. */
let awaiting = 0;

/** Calls back when the event loop has run, and what was ready has had its turn; no busy loop lets it wait. */
export function afterRound(callback: () => void): void {
  awaiting += 1;
  setImmediate(() => {
    awaiting -= 1;
    callback();
  });
}

/**
 * Lets the event loop run now and then. A loop that awaits only what is ready already never leaves
 * the microtask queue, and timers, sockets and other sessions would starve.
 */
export class Breather {
  #last = performance.now();

  due(): boolean {
    return awaiting > 0 || performance.now() - this.#last > LONGEST;
  }

  async breathe(): Promise<void> {
    await new Promise<void>((resolve) => setImmediate(resolve));
    this.#last = performance.now();
  }
}
