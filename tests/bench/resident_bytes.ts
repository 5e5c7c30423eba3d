/** What `--expose-gc` of V8 adds. */
declare const gc: (options: { type: "major"; flavor: "last-resort" }) => void;

/** Resident memory of this process, without garbage and without the room that the heap keeps for more. */
export function residentBytes(): number {
  gc({ type: "major", flavor: "last-resort" });
  return Deno.memoryUsage().rss;
}
