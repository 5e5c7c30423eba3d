import { assertEquals } from "@std/assert";
import { CountedReports } from "../../lib/session/counted_reports.ts";

/** Reports with a clock that stands still until it is set. */
function counted() {
  const clock = { milliseconds: 0 };
  return { reports: new CountedReports(() => clock.milliseconds), clock };
}

function lines(reports: CountedReports, code: string, count: number): number {
  return Array.from({ length: count }, () => reports.count(code)).filter(Boolean).length;
}

Deno.test("all are counted, and of a flood only the first get a line", () => {
  const { reports } = counted();
  assertEquals(lines(reports, "clients", 10), 10);
  assertEquals(lines(reports, "clients", 1000), 1);
  assertEquals(reports.counts, { clients: 1010 });
});

Deno.test("the next line tells how many were left out", () => {
  const { reports, clock } = counted();
  lines(reports, "clients", 100);
  clock.milliseconds += 1000;
  assertEquals(reports.count("clients"), { omitted: 89 });
  assertEquals(reports.count("clients"), undefined);
  clock.milliseconds += 1000;
  assertEquals(reports.count("clients"), { omitted: 1 });
});

Deno.test("a flood of one kind hides nothing of another", () => {
  const { reports } = counted();
  lines(reports, "clients", 1000);
  assertEquals(reports.count("requests"), {});
  assertEquals(reports.counts, { clients: 1000, requests: 1 });
});
