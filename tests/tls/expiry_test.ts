import { assertEquals } from "@std/assert";
import { daysUntil, expiryPause, warningDays } from "../../lib/tls/expiry.ts";

const hour = 3_600_000;
const day = 24 * hour;
const end = new Date("2031-03-01T12:00:00Z");

/** Milliseconds since 1970, so long before the end. */
function before(milliseconds: number): number {
  return end.getTime() - milliseconds;
}

Deno.test("the end of a certificate is looked at when it begins to be warned of, and then each day", () => {
  const pause = expiryPause(end, before(14 * day + 5 * hour));
  assertEquals(pause, 5 * hour + 1);
  assertEquals(daysUntil(end, before(14 * day)) < warningDays, false);
  assertEquals(daysUntil(end, before(14 * day - 1)) < warningDays, true);
  assertEquals(expiryPause(end, before(14 * day - 1)), day);
  assertEquals(expiryPause(end, before(-day)), day);
});

Deno.test("a certificate that lasts for years is looked at each day, as clocks can be set", () => {
  assertEquals(expiryPause(end, before(700 * day)), day);
});
