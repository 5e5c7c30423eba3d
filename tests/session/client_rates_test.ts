import { assert, assertEquals } from "@std/assert";
import { ClientRates } from "../../lib/session/client_rates.ts";

/** Ten a second of each client, on a clock that stands still until it is moved. */
function ratesAt(clock: { now: number }): ClientRates {
  return new ClientRates(10, () => clock.now);
}

Deno.test("sessions of one client share a rate, and those of another have their own", () => {
  const rates = ratesAt({ now: 0 });
  using first = rates.join("CN=one");
  using second = rates.join("CN=one");
  using other = rates.join("CN=other");
  assert(first.rate.spend(6));
  assert(!second.rate.spend(6), "twelve of ten");
  assert(second.rate.wait > 0);
  assert(other.rate.spend(6));
});

Deno.test("who leaves and comes again has spent what it has spent", () => {
  const clock = { now: 0 };
  const rates = ratesAt(clock);
  {
    using session = rates.join("CN=one");
    session.rate.spend(20);
  }
  using again = rates.join("CN=one");
  assertEquals(again.rate.wait, 1000);
  clock.now = 1000;
  assertEquals(again.rate.wait, 0);
});

Deno.test("a session that is ended twice takes no other's place", () => {
  const rates = ratesAt({ now: 0 });
  const session = rates.join("CN=one");
  using kept = rates.join("CN=one");
  session[Symbol.dispose]();
  session[Symbol.dispose]();
  kept.rate.spend(20);
  // So many come and go that what is without a session is forgotten.
  for (let client = 0; client <= 65_536; client++) rates.join(`${client}`)[Symbol.dispose]();
  assert(rates.join("CN=one").rate.wait > 0);
});

Deno.test("clients that are gone are forgotten once there are too many, the longest gone first", () => {
  const rates = ratesAt({ now: 0 });
  for (const client of ["first", "second"]) {
    using session = rates.join(client);
    session.rate.spend(20);
  }
  for (let client = 0; client < 65_535; client++) rates.join(`${client}`)[Symbol.dispose]();
  assert(rates.join("second").rate.wait > 0);
  assertEquals(rates.join("first").rate.wait, 0);
});
