/** From when on the end of a certificate is warned of, in days before. */
export const warningDays = 14;

const dayMilliseconds = 86_400_000;

/** Whole days until then; below zero when it is over. */
export function daysUntil(end: Date, now: number): number {
  return Math.floor((end.getTime() - now) / dayMilliseconds);
}

/**
 * How long it is until the end of a certificate has to be looked at again, in milliseconds: when it
 * begins to be warned of, and from then on each day; a day at most.
 */
export function expiryPause(end: Date, now: number): number {
  const quiet = end.getTime() - warningDays * dayMilliseconds - now;
  return quiet < 0 ? dayMilliseconds : Math.min(quiet + 1, dayMilliseconds);
}
