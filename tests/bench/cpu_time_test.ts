import { assert, assertEquals } from "@std/assert";
import { cpuSeconds, parseCpuSeconds } from "./cpu_time.ts";

Deno.test("CPU time is utime and stime, whatever the program's name", () => {
  const behind = "S 1 7 7 0 -1 4194560 100 200 3 4 150 75 9 9 20 0 12 0 500 1000 20";
  assertEquals(parseCpuSeconds(`7 (a) b (c) ${behind}\n`), 2.25);
});

Deno.test("CPU time of a process grows as it works", () => {
  const before = cpuSeconds(Deno.pid);
  const until = performance.now() + 10_000;
  while (cpuSeconds(Deno.pid) === before) assert(performance.now() < until);
  assert(cpuSeconds(Deno.pid) > before);
});
