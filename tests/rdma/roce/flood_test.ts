import { assert } from "@std/assert";

/** What the engine itself keeps varies by some hundreds of kilobytes; a packet has 300 bytes and more. */
const MOST_BYTES = 2_000_000;

Deno.test("50000 forged packets leave no more in memory than 5000", async () => {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-A", "--no-check", "--v8-flags=--expose-gc"],
      new URL("./flood.ts", import.meta.url).pathname,
    ],
  }).output();
  assert(success, new TextDecoder().decode(stderr));
  const bytes = Number(new TextDecoder().decode(stdout));
  assert(bytes < MOST_BYTES, `${bytes} bytes more`);
});
