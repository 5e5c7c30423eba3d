import { TokenBucket } from "./token_bucket.ts";

/** Log lines of one kind at once, and how many come back in a second. */
const LINES = 10;
const LINES_PER_SECOND = 1;

/** What a log line adds: how many of the same kind were left out before it. */
export type Omitted = { readonly omitted?: number };

/** Counts what others can cause without end, by its code, and keeps it from flooding the log. */
export class CountedReports {
  readonly #kinds = new Map<string, { count: number; omitted: number; lines: TokenBucket }>();

  /** @param now milliseconds, never backwards */
  constructor(private readonly now: () => number = () => performance.now()) {}

  /** All there were, by code. */
  get counts(): Record<string, number> {
    return Object.fromEntries([...this.#kinds].map(([code, { count }]) => [code, count]));
  }

  /**
   * Counts one more.
   *
   * @param code of which there are few
   * @returns what to add to its log line; undefined when there have been too many lines
   */
  count(code: string): Omitted | undefined {
    const known = this.#of(code);
    known.count += 1;
    if (known.lines.wait > 0) {
      known.omitted += 1;
      return undefined;
    }
    known.lines.spend();
    const omitted = known.omitted === 0 ? {} : { omitted: known.omitted };
    known.omitted = 0;
    return omitted;
  }

  #of(code: string) {
    let known = this.#kinds.get(code);
    if (!known) {
      const lines = new TokenBucket(LINES_PER_SECOND, LINES, this.now);
      this.#kinds.set(code, known = { count: 0, omitted: 0, lines });
    }
    return known;
  }
}
