import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { RefusedError } from "../../lib/errors.ts";
import { chooseSeal, offeredSeals } from "../../lib/session/sealing.ts";
import { openDevice } from "../../lib/rdma/provider.ts";
import { serverTest } from "../own_server.ts";
import { type LogLine, type Run, RunningServer, Workspace } from "../program.ts";
import { provider } from "../provider.ts";
import { verbsTest } from "../rdma/resources.ts";
import { auditing, eventsOf } from "./audit_lines.ts";
import { HostileClient } from "./hostile_client.ts";

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

verbsTest(
  "a server counts the sessions that a forged or replayed record has ended, while it runs and at its end",
  async () => {
    await using workspace = await Workspace.create();
    await using server = await RunningServer.start(workspace, auditing);
    const authority = await Deno.readTextFile(workspace.file("certs/ca.pem"));
    using device = openDevice(provider.device);
    const counted = [];
    for (const sequence of [1, 2, 1]) {
      using client = await HostileClient.connect(server, authority, device);
      await client.establish();
      client.sendRaw(Uint8Array.of(0, 0, 0, 0, 0, 0, 0, sequence, ...new Uint8Array(32)));
      const { reason, count } = await server.logged(({ message, peer }) =>
        message === "session ended" && peer === client.peer
      );
      counted.push([reason, count]);
      client.dropQueuePair();
    }
    assertEquals(counted, [["record_forged", 1], ["record_out_of_order", 1], ["record_forged", 2]]);
    assertEquals(await server.stop(), 0);
    const { integrity } = await server.logged(({ message }) => message === "stopped");
    assertEquals(integrity, { record_forged: 2, record_out_of_order: 1 });
    assertEquals(await eventsOf(workspace, "integrity", "reason", "count"), counted);
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
