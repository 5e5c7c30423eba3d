import { assertEquals, assertRejects } from "@std/assert";
import { Turns } from "../../lib/session/turns.ts";

Deno.test("work waits for that before it of the same, whatever becomes of it, and not for others'", async () => {
  const turns = new Turns();
  const begun: string[] = [];
  const first = Promise.withResolvers<void>();
  const work = (name: string, until: Promise<void>) => () => {
    begun.push(name);
    return until.then(() => name);
  };
  const one = turns.take("a", work("one", first.promise));
  const two = turns.take("a", work("two", Promise.resolve()));
  assertEquals(await turns.take("b", work("other", Promise.resolve())), "other");
  assertEquals(begun, ["one", "other"]);

  first.reject(new Error("no"));

  await assertRejects(() => one, Error, "no");
  assertEquals(await two, "two");
  assertEquals(turns.size, 0);
});
