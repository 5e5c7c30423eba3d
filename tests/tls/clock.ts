/** A clock that runs ahead of the true one by as much as a test wants, until disposed. */
export interface Clock extends Disposable {
  milliseconds: number;
}

/** Sets `Date.now` ahead. Timers are as they were. */
export function clockAhead(milliseconds: number): Clock {
  const trueTime = Date.now;
  const clock = {
    milliseconds,
    [Symbol.dispose]: () => {
      Date.now = trueTime;
    },
  };
  Date.now = () => trueTime.call(Date) + clock.milliseconds;
  return clock;
}

/** Timers that wait for a test to end them, in place of `setTimeout`, until disposed. */
export class HeldTimers implements Disposable {
  readonly #setTimeout = globalThis.setTimeout;
  readonly #clearTimeout = globalThis.clearTimeout;
  readonly #held = new Map<number, { run: () => void; milliseconds: number }>();
  #last = 0;
  #set = Promise.withResolvers<void>();

  constructor() {
    globalThis.setTimeout = (run, milliseconds = 0) => {
      if (typeof run === "string") throw new TypeError("a timer runs functions only");
      this.#held.set(++this.#last, { run, milliseconds });
      this.#set.resolve();
      return this.#last;
    };
    globalThis.clearTimeout = (id) => {
      this.#held.delete(id!);
    };
  }

  /** How long each still has to wait, in milliseconds. */
  get pending(): number[] {
    return [...this.#held.values()].map(({ milliseconds }) => milliseconds);
  }

  /** Until the first is set since the last were ended. */
  async next(): Promise<void> {
    await this.#set.promise;
  }

  /** Ends all at once. */
  fire(): void {
    const due = [...this.#held.values()];
    this.#held.clear();
    this.#set = Promise.withResolvers();
    for (const { run } of due) run();
  }

  [Symbol.dispose](): void {
    globalThis.setTimeout = this.#setTimeout;
    globalThis.clearTimeout = this.#clearTimeout;
  }
}
