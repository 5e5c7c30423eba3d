/** From when on the end of a certificate is warned of, in days before. */
export const warningDays = 14;

const dayMilliseconds = 86_400_000;

/** Whole days until then; below zero when it is over. */
export function daysUntil(end: Date, now: number): number {
  return Math.floor((end.getTime() - now) / dayMilliseconds);
}
