import { assertEquals } from "@std/assert";
import { SessionPins } from "../../lib/session/session_pins.ts";

Deno.test("a session's next path, and the session that goes on with it, have its worker", () => {
  using pins = new SessionPins<string>();
  assertEquals(pins.find("first"), undefined);
  const closed = pins.hold("first", "worker");
  assertEquals(pins.find("second", "first"), "worker");
  closed();
  assertEquals(pins.find("first"), "worker", "for a while");
  pins.hold("second", "other")();
  assertEquals(pins.find("second", "first"), "other");
});

Deno.test("who names no session has no worker to go back to", () => {
  using pins = new SessionPins<string>();
  pins.hold(undefined, "worker")();
  assertEquals(pins.find(undefined, undefined), undefined);
});
