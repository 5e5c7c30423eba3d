import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { psnAfter, psnDistance } from "../../../lib/rdma/roce/psn.ts";

const PSNS = 2 ** 24;
const WINDOW = 2 ** 23;

const psns = fc.oneof(
  fc.integer({ min: 0, max: PSNS - 1 }),
  fc.constantFrom(0, 1, WINDOW - 1, WINDOW, WINDOW + 1, PSNS - 2, PSNS - 1),
);
const distances = fc.oneof(
  fc.integer({ min: -WINDOW, max: WINDOW - 1 }),
  fc.constantFrom(-WINDOW, 1 - WINDOW, -1, 0, 1, WINDOW - 2, WINDOW - 1),
);

Deno.test("after the last PSN, 0xffffff, comes 0, and before 0 comes the last", () => {
  assertEquals(psnAfter(0xff_ffff, 1), 0);
  assertEquals(psnAfter(0, -1), 0xff_ffff);
  assertEquals(psnAfter(0xff_fffe, 5), 3);
});

Deno.test("2^23 - 1 PSNs are after any PSN, and 2^23 before it", () => {
  assertEquals(psnDistance(0, WINDOW - 1), WINDOW - 1);
  assertEquals(psnDistance(0, WINDOW), -WINDOW);
  assertEquals(psnDistance(0xff_ffff, WINDOW - 2), WINDOW - 1);
  assertEquals(psnDistance(0xff_ffff, WINDOW - 1), -WINDOW);
});

Deno.test("the distance to the PSN so many packets away is that number, wherever counting begins", () => {
  fc.assert(fc.property(psns, distances, (psn, distance) => {
    const other = psnAfter(psn, distance);
    assertEquals(other, (psn + distance + PSNS) % PSNS);
    assertEquals(psnDistance(psn, other), distance);
  }));
});

Deno.test("going on by two numbers of packets is going on by their sum", () => {
  const counts = fc.integer({ min: 0, max: 2 ** 30 });
  fc.assert(fc.property(psns, counts, counts, (psn, first, second) => {
    assertEquals(psnAfter(psnAfter(psn, first), second), psnAfter(psn, first + second));
  }));
});
