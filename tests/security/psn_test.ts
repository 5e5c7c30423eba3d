import { assert, assertEquals } from "@std/assert";
import { PsnSource } from "../../lib/security/psn.ts";

/** Chi-squared of counts against a uniform distribution. */
function chiSquared(counts: readonly number[], expected: number): number {
  return counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
}

Deno.test("PSNs are uniform in each of their three bytes", () => {
  const source = new PsnSource();
  const draws = 256 * 400;
  const counts = [0, 1, 2].map(() => new Array<number>(256).fill(0));
  for (let draw = 0; draw < draws; draw++) {
    const psn = source.draw(1);
    counts.forEach((count, byte) => count[(psn >> (8 * byte)) & 0xff]! += 1);
  }
  // 255 degrees of freedom: mean 255, deviation 22.6. 400 is more than six deviations off:
  // a sound generator fails this less than once in a million runs.
  for (const count of counts) assert(chiSquared(count, 400) < 400);
});

Deno.test("successive PSNs do not depend on each other", () => {
  const source = new PsnSource();
  const counts = new Array<number>(256).fill(0);
  let last = source.draw(1);
  for (let draw = 0; draw < 256 * 400; draw++) {
    const psn = source.draw(1);
    counts[((psn - last) >>> 16) & 0xff]! += 1;
    last = psn;
  }
  assert(chiSquared(counts, 400) < 400);
});

Deno.test("PSNs cover 24 bits and no more", () => {
  const source = new PsnSource();
  const psns = Array.from({ length: 10_000 }, () => source.draw(1));
  assert(psns.every((psn) => Number.isInteger(psn) && psn >= 0 && psn < 2 ** 24));
  assert(Math.max(...psns) > 2 ** 24 - 2 ** 15 && Math.min(...psns) < 2 ** 15);
});

Deno.test("a PSN near the last one of the same queue pair number is drawn again for 60 seconds", () => {
  const near = 2 ** 20 - 1;
  const draws = [5 + near, 2 ** 24 - near + 5, 5 + 2 ** 20, 6, 6];
  let now = 0;
  const source = new PsnSource(() => draws.shift()!, () => now);
  source.retire(17, 5);
  assertEquals(source.draw(17), 5 + 2 ** 20, "both sides of the last PSN are too near");
  assertEquals(source.draw(18), 6, "another queue pair number does not matter");
  now = 60_000;
  assertEquals(source.draw(17), 6, "after 60 seconds any will do");
});
