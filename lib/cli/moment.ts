/** A moment to the minute: `2026-12-21 10:00 UTC`. */
export function momentText(moment: Date): string {
  return moment.toISOString().replace("T", " ").slice(0, 16) + " UTC";
}
