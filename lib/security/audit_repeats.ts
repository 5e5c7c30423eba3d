import type { AuditEntry } from "./audit.ts";

/** How long alike lines are counted together, in milliseconds. */
const WINDOW_MILLISECONDS = 10_000;

/** Alike lines that are written one by one within that time. */
const LINES = 50;

/**
 * Keeps from filling the disk who has shown no certificate, and who calls services in vain: refusals
 * for one reason, and failed calls of one session, are recorded one by one up to a number, and the
 * rest of the next seconds in one line that counts them.
 */
export class AuditRepeats implements Disposable {
  readonly #counts = new Map<string, { readonly entry: AuditEntry; count: number }>();
  #timer: number | undefined;

  /** @param record writes the line that counts */
  constructor(private readonly record: (entry: AuditEntry) => void) {}

  /** Whether an entry is one of too many, and only counted. */
  counts(entry: AuditEntry): boolean {
    const same = whatIsAlike(entry);
    if (!same) return false;
    this.#timer ??= setTimeout(() => this[Symbol.dispose](), WINDOW_MILLISECONDS);
    const kind = JSON.stringify(same);
    const alike = this.#counts.get(kind) ?? { entry: same, count: 0 };
    this.#counts.set(kind, alike);
    alike.count += 1;
    return alike.count > LINES;
  }

  /** Writes what was counted. */
  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const { entry, count } of this.#counts.values()) {
      if (count > LINES) this.record({ ...entry, repeated: count - LINES });
    }
    this.#counts.clear();
  }
}

/** What entries have in common that are counted together; undefined for those that never are. */
function whatIsAlike(entry: AuditEntry): AuditEntry | undefined {
  const { event, session, identity } = entry;
  if (isCheap(entry)) {
    const { reason, limit } = entry;
    return { event, reason, limit };
  }
  const { service, result } = entry;
  const inVain = event === "service" && result !== undefined && result !== "done";
  return inVain ? { event, session, identity, service, result } : undefined;
}

/** Whether it costs its sender nothing: it is turned away, and nobody vouches for who it is. */
function isCheap({ event, session, identity, ...fields }: AuditEntry): boolean {
  const turnedAway = event === "refused" || event === "limit" || fields["allowed"] === false;
  return turnedAway && session === undefined && typeof identity !== "object";
}
