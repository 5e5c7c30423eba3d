/**
 * A rate that may be exceeded for a moment. Spending costs a subtraction: the clock is looked at
 * only when what had been saved up is spent.
 */
export class TokenBucket {
  #tokens: number;
  #updated: number;

  /**
   * @param perSecond tokens that come back in a second
   * @param burst tokens saved up at most, with which it begins; of a pause it is learnt when they are
   * spent, so that after one there may be one more than twice as many
   * @param now milliseconds, never backwards
   */
  constructor(
    private readonly perSecond: number,
    private readonly burst = perSecond,
    private readonly now: () => number = () => performance.now(),
  ) {
    this.#tokens = burst;
    this.#updated = now();
  }

  /** Spends tokens, on credit if there are none: false then, and {@linkcode wait} says how long to wait. */
  spend(count = 1): boolean {
    this.#tokens -= count;
    return this.#tokens >= 0 || this.wait === 0;
  }

  /** Milliseconds until nothing is owed, 0 when nothing is. */
  get wait(): number {
    if (this.#tokens >= 0) return 0;
    const now = this.now();
    const back = this.perSecond * (now - this.#updated) / 1000;
    this.#tokens = Math.min(this.burst, this.#tokens + back);
    this.#updated = now;
    return Math.max(0, -this.#tokens * 1000 / this.perSecond);
  }
}
