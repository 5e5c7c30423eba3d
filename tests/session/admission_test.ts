import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { LimitError } from "../../lib/errors.ts";
import { accountOf, Admission, type SessionClaim } from "../../lib/session/admission.ts";
import { defaultLimits, type Limits } from "../../lib/session/limits.ts";

/** Admission with limits of the test's own and a clock that stands still until it is set. */
function admission(limits: Partial<Limits>) {
  const clock = { milliseconds: 0 };
  const door = new Admission({ ...defaultLimits, ...limits }, () => clock.milliseconds);
  return { door, clock };
}

/** A session that claims no more than a test is about. */
function enter(door: Admission, address: string, claim: Partial<SessionClaim> = {}): Disposable {
  const modest = { quota: { identity: "somebody", sessions: Infinity }, registeredBytes: 1 };
  return door.session(address, { ...modest, ...claim });
}

function refusal(attempt: () => unknown): string {
  return assertThrows(attempt, LimitError).code;
}

Deno.test("the server has at most so many clients, and room again when one ends", () => {
  const { door } = admission({ clients: 2 });
  const first = enter(door, "10.0.0.1");
  enter(door, "10.0.0.2");
  assertEquals(refusal(() => enter(door, "10.0.0.3")), "clients");
  first[Symbol.dispose]();
  enter(door, "10.0.0.3");
  assertEquals(door.sessions, 2);
});

Deno.test("a session that ends twice gives its place back once", () => {
  const { door } = admission({ clients: 1 });
  const session = enter(door, "10.0.0.1");
  session[Symbol.dispose]();
  session[Symbol.dispose]();
  assertEquals(door.sessions, 0);
  enter(door, "10.0.0.1");
  assertEquals(refusal(() => enter(door, "10.0.0.1")), "clients");
});

Deno.test("an address has at most so many sessions, which takes nothing from others", () => {
  const { door } = admission({ clientsPerAddress: 2 });
  enter(door, "10.0.0.1");
  const second = enter(door, "10.0.0.1");
  assertEquals(refusal(() => enter(door, "10.0.0.1")), "clients_per_address");
  enter(door, "10.0.0.2");
  second[Symbol.dispose]();
  enter(door, "10.0.0.1");
});

Deno.test("all IPv6 addresses of one /64 count as one, and others do not", () => {
  const { door } = admission({ clientsPerAddress: 1 });
  enter(door, "2001:db8:0:1::1");
  assertEquals(refusal(() => enter(door, "2001:db8:0:1:ffff::2")), "clients_per_address");
  enter(door, "2001:db8:0:2::1");
});

Deno.test("an IPv4 address is the same however it is written, and a scope is no part of one", () => {
  assertEquals(accountOf("::ffff:10.0.0.1"), accountOf("10.0.0.1"));
  assertEquals(accountOf("fe80::1%eth0"), accountOf("fe80::2%eth1"));
});

Deno.test("every address has an account", () => {
  fc.assert(fc.property(fc.oneof(fc.ipV4(), fc.ipV6()), (address) => accountOf(address) !== ""));
});

Deno.test("an address may connect so often at once, and again as time passes", () => {
  const { door, clock } = admission({ connectionsPerSecond: 4 });
  const connect = () => door.connection("10.0.0.1");
  for (let count = 0; count < 4; count++) connect();
  assertEquals(refusal(connect), "connection_rate");
  door.connection("10.0.0.2");
  clock.milliseconds += 250;
  connect();
  assertEquals(refusal(connect), "connection_rate");
  clock.milliseconds += 60_000;
  for (let count = 0; count < 4; count++) connect();
  assertEquals(refusal(connect), "connection_rate", "a pause saves up one second's worth");
});

Deno.test("no address gets more connections than its rate allows, whenever it tries", () => {
  const pauses = fc.array(fc.integer({ min: 0, max: 2000 }), { maxLength: 200 });
  fc.assert(fc.property(fc.integer({ min: 1, max: 20 }), pauses, (rate, milliseconds) => {
    const { door, clock } = admission({ connectionsPerSecond: rate, handshakes: 1000 });
    let accepted = 0;
    for (const pause of milliseconds) {
      clock.milliseconds += pause;
      try {
        door.connection("10.0.0.1");
        accepted += 1;
      } catch (error) {
        assert(error instanceof LimitError);
      }
    }
    assert(accepted <= rate + rate * clock.milliseconds / 1000 + 1e-6);
  }));
});

Deno.test("an address begins some sessions at once, and further ones at a pace of its own", () => {
  const { door, clock } = admission({ sessionsPerSecond: 10, handshakes: 8 });
  const delays = (count: number, address = "10.0.0.1") =>
    Array.from({ length: count }, () => door.sessionDelay(address));
  assertEquals(delays(5), [0, 0, 100, 200, 300]);
  assertEquals(delays(3, "10.0.0.2"), [0, 0, 100]);
  clock.milliseconds += 250;
  assertEquals(delays(1), [150]);
  clock.milliseconds += 60_000;
  assertEquals(delays(4), [0, 0, 100, 200], "a pause saves up no more than may come at once");
});

Deno.test("a session that would wait too long is refused, and has none behind it wait for it", () => {
  const { door, clock } = admission({ sessionsPerSecond: 1, handshakes: 4, handshakeSeconds: 4 });
  const begin = () => door.sessionDelay("10.0.0.1");
  assertEquals([begin(), begin(), begin()], [0, 1000, 2000]);
  for (let count = 0; count < 100; count++) assertEquals(refusal(begin), "session_rate");
  clock.milliseconds += 1000;
  assertEquals(begin(), 2000);
});

Deno.test("who leaves before its session begins has no other one wait in its place", () => {
  const { door } = admission({ sessionsPerSecond: 1, handshakes: 4, handshakeSeconds: 4 });
  const begin = () => door.sessionDelay("10.0.0.1");
  assertEquals([begin(), begin(), begin()], [0, 1000, 2000]);
  door.sessionGivenUp("10.0.0.1");
  assertEquals(begin(), 2000);
});

Deno.test("only so many connections may be in the exchange at once", () => {
  const { door } = admission({ handshakes: 2 });
  const first = door.connection("10.0.0.1");
  door.connection("10.0.0.2");
  assertEquals(refusal(() => door.connection("10.0.0.3")), "handshakes");
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  door.connection("10.0.0.3");
  assertEquals(refusal(() => door.connection("10.0.0.4")), "handshakes");
});

Deno.test("of addresses without number the idle ones are forgotten, and no session is", () => {
  const { door } = admission({ clientsPerAddress: 1, connectionsPerSecond: 1, handshakes: 1e6 });
  const idle = () => door.connection("10.0.0.9")[Symbol.dispose]();
  enter(door, "10.0.0.1");
  idle();
  assertEquals(refusal(idle), "connection_rate");
  for (let index = 0; index < 70_000; index++) {
    const network = `${(index >> 16).toString(16)}:${(index & 0xffff).toString(16)}`;
    door.connection(`2001:db8:${network}::1`)[Symbol.dispose]();
  }
  idle();
  assertEquals(refusal(() => enter(door, "10.0.0.1")), "clients_per_address");
});

Deno.test("one address cannot take all places of unfinished exchanges", () => {
  const { door } = admission({ handshakes: 8 });
  const first = door.connection("10.0.0.1");
  door.connection("10.0.0.1");
  assertEquals(refusal(() => door.connection("10.0.0.1")), "handshakes_per_address");
  door.connection("10.0.0.2");
  first[Symbol.dispose]();
  door.connection("10.0.0.1");
});

Deno.test("an identity has at most so many sessions, wherever they come from", () => {
  const { door } = admission({});
  const quota = { identity: "a", sessions: 2 };
  enter(door, "10.0.0.1", { quota });
  const second = enter(door, "10.0.0.2", { quota });
  assertEquals(refusal(() => enter(door, "10.0.0.3", { quota })), "sessions_per_identity");
  assertEquals(door.sessions, 2);
  enter(door, "10.0.0.3", { quota: { identity: "b", sessions: 1 } });
  second[Symbol.dispose]();
  second[Symbol.dispose]();
  enter(door, "10.0.0.1", { quota });
  assertEquals(refusal(() => enter(door, "10.0.0.1", { quota })), "sessions_per_identity");
});

Deno.test("sessions have what is set aside for them, and one for which nothing is left is refused", () => {
  const { door } = admission({ registeredBytesInAll: 100 });
  const first = enter(door, "10.0.0.1", { registeredBytes: 60 });
  enter(door, "10.0.0.2", { registeredBytes: 40 });
  const more = () => enter(door, "10.0.0.3", { registeredBytes: 1 });
  assertEquals(refusal(more), "registered_memory_in_all");
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  enter(door, "10.0.0.3", { registeredBytes: 60 });
  assertEquals(refusal(more), "registered_memory_in_all");
});

Deno.test("a device has no more sessions than it has room for, and another one has its own", () => {
  const { door } = admission({});
  const device = { device: "mlx5_0", room: 2 };
  enter(door, "10.0.0.1", { device });
  const second = enter(door, "10.0.0.2", { device });
  assertEquals(refusal(() => enter(door, "10.0.0.3", { device })), "device_full");
  enter(door, "10.0.0.3", { device: { device: "mlx5_1", room: 1 } });
  enter(door, "10.0.0.3");
  second[Symbol.dispose]();
  enter(door, "10.0.0.3", { device });
});

Deno.test("a session that is refused for one reason takes no place of another", () => {
  const { door } = admission({});
  const quota = { identity: "a", sessions: 1 };
  const full = { device: "mlx5_0", room: 0 };
  assertEquals(refusal(() => enter(door, "10.0.0.1", { quota, device: full })), "device_full");
  enter(door, "10.0.0.1", { quota });
  assertEquals(door.sessions, 1);
});
