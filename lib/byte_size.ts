const units = ["", "k", "m", "g", "t"];

/**
 * A number of bytes as users write it: `4096`, `4k`, `4KiB`, `1M`, `1MiB`, `2G`, `1T`.
 *
 * @returns undefined when it is none
 */
export function parseByteSize(text: string): number | undefined {
  const [, digits, unit] = /^(\d+)(|[kmgt](?:ib)?)$/i.exec(text) ?? [];
  if (digits === undefined || unit === undefined) return undefined;
  return Number(digits) * 1024 ** units.indexOf(unit.slice(0, 1).toLowerCase());
}

/** The same for them to read: in the largest unit in which it is a whole number. */
export function formatByteSize(bytes: number): string {
  let unit = 0;
  while (bytes > 0 && bytes % 1024 === 0 && unit < units.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return unit === 0 ? `${bytes}` : `${bytes}${units[unit]!.toUpperCase()}iB`;
}
