import { delay } from "@std/async/delay";
import { TokenBucket } from "./token_bucket.ts";

/** Makes a session wait that wants something too often. */
export class Pace {
  readonly #tokens: TokenBucket;

  /**
   * @param perSecond times that it may be had in a second; as many again at once
   * @param onSlowed called whenever the session has to wait
   * @param signal aborts when the session ends, and with it all waiting
   */
  constructor(
    perSecond: number,
    private readonly onSlowed: () => void,
    private readonly signal: AbortSignal,
  ) {
    this.#tokens = new TokenBucket(perSecond);
  }

  /** Resolves when it may be had once more. */
  async turn(): Promise<void> {
    if (this.#tokens.spend()) return;
    this.onSlowed();
    await delay(this.#tokens.wait, { signal: this.signal });
  }
}
