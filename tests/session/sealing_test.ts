import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { RefusedError } from "../../lib/errors.ts";
import { chooseSeal, offeredSeals } from "../../lib/session/sealing.ts";
import { serverTest } from "../own_server.ts";
import type { LogLine, Run, RunningServer } from "../program.ts";

Deno.test("a client that seals offers ciphers only, and one that does not nothing else", () => {
  assertEquals(offeredSeals("off"), ["off"]);
  assertEquals(offeredSeals("required").toSorted(), ["aes-256-gcm", "chacha20-poly1305"]);
});

Deno.test("nothing is unsealed unless both sides ask for it", () => {
  assertEquals(chooseSeal(["off"], "off"), "off");
  assertEquals(chooseSeal(["chacha20-poly1305"], "off"), "chacha20-poly1305");
  assertEquals(chooseSeal(["off", "chacha20-poly1305"], "off"), "chacha20-poly1305");
  assertEquals(chooseSeal(["off", "chacha20-poly1305"], "required"), "chacha20-poly1305");
  const error = assertThrows(() => chooseSeal(["off"], "required"), RefusedError, "--seal off");
  assertEquals(error.code, "seal");
});

const unsealed = /not sealed/;

function isWarning({ level, message }: LogLine): boolean {
  return level === "warning" && unsealed.test(message);
}

/** What a server's log says of its last session. */
function established(server: RunningServer): Promise<LogLine> {
  return server.logged(({ message }) => message === "session established");
}

function sessionOf({ records }: Run): Record<string, unknown> {
  return records.findLast(({ session }) => session !== undefined)!.session as never;
}

serverTest(
  "a session is sealed unless told, and both sides say with what",
  async (workspace, server) => {
    const ping = await workspace.client(server, "ping", ["--count", "1"]);
    assertEquals(ping.status, 0, ping.stderr);
    const { seal } = await established(server);
    assert(seal === "aes-256-gcm" || seal === "chacha20-poly1305", `${seal}`);
    assertEquals(sessionOf(ping).seal, seal);
    assert(!unsealed.test(ping.stderr), ping.stderr);
    assertEquals(server.log.filter(isWarning), []);
  },
);

serverTest(
  "a server that seals refuses who does not, and tells the way out",
  async (workspace, server) => {
    const refused = await workspace.client(server, "ping", ["--count", "1", "--seal", "off"]);
    assertEquals(refused.status, 5, refused.stderr);
    assertStringIncludes(refused.stderr, "leave out --seal off");
    const { reason } = await server.logged(({ message }) => message === "session ended");
    assertEquals(reason, "seal");
  },
);

serverTest(
  "with --seal off on both sides nothing is sealed, and both warn",
  async (workspace, server) => {
    const ping = await workspace.client(server, "ping", ["--count", "1", "--seal", "off"]);
    assertEquals(ping.status, 0, ping.stderr);
    assertEquals((await established(server)).seal, "off");
    assertEquals(sessionOf(ping).seal, "off");
    assert(unsealed.test(ping.stderr), ping.stderr);
    await server.logged(isWarning);
  },
  ["--seal", "off"],
);

serverTest(
  "a client that seals is sealed with by a server that need not",
  async (workspace, server) => {
    const ping = await workspace.client(server, "ping", ["--count", "1"]);
    assertEquals(ping.status, 0, ping.stderr);
    assert((await established(server)).seal !== "off");
    assertEquals(server.log.filter(isWarning), []);
  },
  ["--seal", "off"],
);
