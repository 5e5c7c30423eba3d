/** Counters for people: what is zero is left out. */
export function countedText(counters: Readonly<Record<string, number>>): string {
  const counted = Object.entries(counters).filter(([, value]) => value !== 0)
    .map(([name, value]) => `${name} ${value}`);
  return counted.join(", ") || "nothing counted";
}
