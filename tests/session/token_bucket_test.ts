import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { TokenBucket } from "../../lib/session/token_bucket.ts";

/** A bucket and a clock that stands still until it is set. */
function bucket(perSecond: number, burst?: number) {
  const clock = { milliseconds: 0 };
  return { tokens: new TokenBucket(perSecond, burst, () => clock.milliseconds), clock };
}

Deno.test("what was saved up is spent without waiting, and one more has to wait", () => {
  const { tokens } = bucket(10, 3);
  assertEquals([1, 2, 3].map(() => tokens.spend()), [true, true, true]);
  assertEquals(tokens.wait, 0);
  assertEquals(tokens.spend(), false);
  assertEquals(tokens.wait, 100);
});

Deno.test("several tokens spent at once take as long to come back as one after the other", () => {
  const { tokens } = bucket(10, 3);
  assertEquals(tokens.spend(3), true);
  assertEquals(tokens.spend(2), false);
  assertEquals(tokens.wait, 200);
});

Deno.test("who has waited for as long as told owes nothing", () => {
  const { tokens, clock } = bucket(10, 1);
  for (let count = 0; count < 6; count++) tokens.spend();
  assertEquals(tokens.wait, 500);
  clock.milliseconds += 499;
  assert(tokens.wait > 0);
  clock.milliseconds += 1;
  assertEquals(tokens.wait, 0);
});

Deno.test("a pause saves up little more than twice the burst, however long it is", () => {
  const { tokens, clock } = bucket(10, 3);
  clock.milliseconds += 3_600_000;
  let spent = 0;
  while (tokens.spend()) spent += 1;
  assertEquals(spent, 2 * 3 + 1);
});

Deno.test("who always waits as told spends no more than the rate allows, and nearly all of it", () => {
  const pauses = fc.array(fc.integer({ min: 0, max: 50 }), { minLength: 100, maxLength: 300 });
  fc.assert(fc.property(fc.integer({ min: 1, max: 1000 }), pauses, (rate, spending) => {
    const { tokens, clock } = bucket(rate);
    let spent = 0;
    for (const count of spending) {
      for (let index = 0; index < count; index++) tokens.spend();
      spent += count;
      clock.milliseconds += tokens.wait;
    }
    assert(spent <= rate + rate * clock.milliseconds / 1000 + 1e-6);
    assert(clock.milliseconds <= spent / rate * 1000 + 1e-6, "nobody waits for longer");
  }));
});
