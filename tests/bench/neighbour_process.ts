/**
 * `neighbour_process.ts {"load":…,"port":…,"authority":…}`: a client that loads the server until its
 * input ends. It prints a line when it has begun, and for each line that comes, which says for how
 * many seconds, the MB/s of its messages meanwhile.
 */
import process from "node:process";
import { setImmediate } from "node:timers/promises";
import { MEGABYTE } from "./figure.ts";
import { loads, moved } from "./loads.ts";
import type { NeighbourOptions } from "./neighbours.ts";
import { linesOf } from "./peer.ts";

const options: NeighbourOptions = JSON.parse(Deno.args[0]!);
const parts = await loads[options.load](options);
for (const part of parts) {
  await part();
  void (async () => {
    for (;;) await part();
  })();
}
console.log("begun");
if (options.busy) void takeProcessor();
const nextLine = linesOf(process.stdin);
for (let line = await nextLine(); line !== undefined; line = await nextLine()) {
  const [before, started] = [moved(), performance.now()];
  await new Promise((resolve) => setTimeout(resolve, Number(line) * 1000));
  console.log((moved() - before) / MEGABYTE / (performance.now() - started) * 1000);
}
// Its session ends with the process.
Deno.exit();

async function takeProcessor(): Promise<void> {
  for (;;) await setImmediate();
}
