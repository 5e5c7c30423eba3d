/**
 * `neighbour_process.ts {"load":…,"port":…,"authority":…}`: a client that loads the server until its
 * input ends. It prints a line when it has begun, and answers each line that comes, an
 * {@linkcode Order}, with a line when it is done: the MB/s of its messages meanwhile, where it measures.
 */
import process from "node:process";
import { setImmediate } from "node:timers/promises";
import { MEGABYTE } from "./figure.ts";
import { loads, moved } from "./loads.ts";
import type { NeighbourOptions, Order } from "./neighbours.ts";
import { linesOf } from "./peer.ts";

/** What goes on, part by part, until it is told to rest. */
class Activity {
  #work = Promise.withResolvers<void>();
  #resting = true;
  readonly #done: (() => void)[] = [];
  /** Those that have not come to rest. */
  #active = 0;

  begin(part: () => Promise<unknown>): void {
    this.#active += 1;
    void this.#repeat(part);
  }

  work(): void {
    this.#resting = false;
    this.#work.resolve();
  }

  /** Resolves when what was under way is done. */
  async rest(): Promise<void> {
    this.#work = Promise.withResolvers<void>();
    this.#resting = true;
    if (this.#active > 0) await new Promise<void>((resolve) => this.#done.push(resolve));
  }

  async #repeat(part: () => Promise<unknown>): Promise<void> {
    for (;;) {
      if (this.#resting) await this.#pause();
      await part();
    }
  }

  async #pause(): Promise<void> {
    this.#active -= 1;
    if (this.#active === 0) { for (const resolve of this.#done.splice(0)) resolve(); }
    await this.#work.promise;
    this.#active += 1;
  }
}

const options: NeighbourOptions = JSON.parse(Deno.args[0]!);
const activity = new Activity();
const parts = await loads[options.load](options);
for (const part of parts) {
  await part();
  activity.begin(part);
}
if (options.busy) activity.begin(() => setImmediate());
console.log("begun");
const nextLine = linesOf(process.stdin);
for (let line = await nextLine(); line !== undefined; line = await nextLine()) {
  console.log(await obey(JSON.parse(line)));
}
// Its session ends with the process.
Deno.exit();

async function obey(order: Order): Promise<string> {
  switch (order.what) {
    case "work":
      activity.work();
      return "works";
    case "rest":
      await activity.rest();
      return "rests";
    case "measure": {
      const [before, started] = [moved(), performance.now()];
      await new Promise((resolve) => setTimeout(resolve, order.seconds * 1000));
      return String((moved() - before) / MEGABYTE / (performance.now() - started) * 1000);
    }
  }
}
