import type { AuditEntry } from "./audit.ts";

/** How long alike lines are counted together, in milliseconds. */
const WINDOW_MILLISECONDS = 10_000;

/** Alike lines that are written one by one within that time. */
const LINES = 50;

/**
 * Keeps who has shown no certificate from filling the disk: refusals for one reason are recorded
 * one by one up to a number, and the rest of the next seconds in one line that counts them.
 */
export class AuditRepeats implements Disposable {
  readonly #counts = new Map<string, { readonly entry: AuditEntry; count: number }>();
  #timer: number | undefined;

  /** @param record writes the line that counts */
  constructor(private readonly record: (entry: AuditEntry) => void) {}

  /** Whether an entry is one of too many, and only counted. */
  counts(entry: AuditEntry): boolean {
    if (!isCheap(entry)) return false;
    this.#timer ??= setTimeout(() => this[Symbol.dispose](), WINDOW_MILLISECONDS);
    const { event, reason, limit } = entry;
    const kind = `${event} ${reason ?? limit}`;
    const alike = this.#counts.get(kind) ?? { entry, count: 0 };
    this.#counts.set(kind, alike);
    alike.count += 1;
    return alike.count > LINES;
  }

  /** Writes what was counted. */
  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const { entry: { event, reason, limit }, count } of this.#counts.values()) {
      if (count > LINES) this.record({ event, reason, limit, repeated: count - LINES });
    }
    this.#counts.clear();
  }
}

/** Whether it costs its sender nothing: it is turned away, and nobody vouches for who it is. */
function isCheap({ event, session, identity, ...fields }: AuditEntry): boolean {
  const turnedAway = event === "refused" || event === "limit" || fields["allowed"] === false;
  return turnedAway && session === undefined && typeof identity !== "object";
}
