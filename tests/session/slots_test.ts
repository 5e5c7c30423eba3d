import { assertEquals, assertRejects } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { Slots } from "../../lib/session/slots.ts";

const ended = new Error("the session has ended");

Deno.test("work beyond the slots waits, and begins in its turn as others are complete", async () => {
  const slots = new Slots(2);
  const begun: [work: number, slot: number][] = [];
  const works = [0, 1, 2, 3].map((work) => slots.run((slot) => begun.push([work, slot])));
  const first = begun.map(([work]) => work);
  assertEquals(first, [0, 1]);
  slots.complete(begun[1]![1]);
  await works[1];
  assertEquals(begun[2], [2, begun[1]![1]]);
  slots.complete(begun[0]![1]);
  slots.complete(begun[2]![1]);
  await Promise.all([works[0], works[2]]);
  assertEquals(begun[3]![0], 3);
  slots.complete(begun[3]![1]);
  await works[3];
});

Deno.test("work that cannot begin leaves its slot to the next", async () => {
  const slots = new Slots(1);
  const failing = slots.run(() => {
    throw new Error("not taken");
  });
  let slot: number | undefined;
  const next = slots.run((free) => slot = free);
  await assertRejects(() => failing, Error, "not taken");
  await Promise.resolve();
  assertEquals(slot, 0);
  slots.complete(0);
  await next;
});

Deno.test("an end rejects what is under way, what waits, what has its turn at that moment, and what is late", async () => {
  const slots = new Slots(1);
  let slot = -1;
  const works = [slots.run((free) => slot = free), slots.run(() => {}), slots.run(() => {})];
  // The second has its turn, and has not begun.
  slots.complete(slot);
  slots.abort(ended);
  works.push(slots.run(() => {}));
  await works.shift();
  for (const work of works) await assertRejects(() => deadline(work, 1000), Error, ended.message);
});
