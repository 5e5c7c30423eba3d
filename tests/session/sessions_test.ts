import { assert, assertEquals, assertNotEquals } from "@std/assert";
import {
  eventually,
  randomFile,
  rdmaResources,
  run,
  RunningServer,
  sha256,
  Workspace,
} from "./program.ts";

type Numbers = { qpn: number; psn: number; gid: string };
type SessionFacts = { id: string; local: Numbers; remote: Numbers; mtu: number };

const before = await rdmaResources();

/** A test with a server of its own, after which the kernel must hold what it held before. */
function sessionTest(
  name: string,
  test: (workspace: Workspace, server: RunningServer) => Promise<void>,
  serverArguments: readonly string[] = [],
): void {
  Deno.test(name, async () => {
    await using workspace = await Workspace.create();
    await using server = await RunningServer.start(workspace, serverArguments);
    await test(workspace, server);
    assertEquals(await server.stop(), 0, "SIGTERM ends the server with exit code 0");
    assertEquals(await rdmaResources(), before);
  });
}

sessionTest(
  "a session answers messages, moves memory and files, and leaves nothing",
  async (workspace, server) => {
    const echo = await workspace.client(server, "echo", ["hello"]);
    assertEquals([echo.status, echo.records[0]?.answer], [0, "hello"], echo.stderr);
    const reverse = await workspace.client(server, "reverse", ["Grüße"]);
    assertEquals(reverse.records[0]?.answer, "eßürG");
    const time = await workspace.client(server, "time");
    const skew = Math.abs(Date.parse(time.records[0]?.answer as string) - Date.now());
    assert(skew < 60_000, `server time is ${skew} ms off`);

    const large = crypto.getRandomValues(new Uint8Array(65536));
    const message = new Uint8Array(2 ** 20);
    for (let at = 0; at < message.length; at += large.length) message.set(large, at);
    const back = await workspace.client(server, "echo", [], { stdin: message });
    assertEquals(back.records[0]?.bytes, 2 ** 20);
    const tooLarge = await workspace.client(server, "echo", [], {
      stdin: new Uint8Array(2 ** 20 + 1),
    });
    assertNotEquals(tooLarge.status, 0);

    const written = await workspace.client(server, "write", ["some bytes", "--offset", "5000"]);
    assertEquals([written.status, written.records[0]?.bytes], [0, 10], written.stderr);
    const outside = await workspace.client(server, "write", [
      "12345678",
      "--offset",
      String(2 ** 20 - 4),
    ]);
    assertEquals(outside.status, 5);
  },
);

sessionTest(
  "files of all sizes come back as they went, and appear only whole",
  async (workspace, server) => {
    for (const bytes of [0, 1, 262145, 3_000_000]) {
      const name = `file-${bytes}`;
      await randomFile(workspace.file(name), bytes);
      const put = await workspace.client(server, "put", [name]);
      assertEquals(put.status, 0, put.stderr);
      const hash = await sha256(workspace.file(name));
      assertEquals(await sha256(`${workspace.root}/${name}`), hash);
      assertEquals(put.records[0]?.sha256, hash);
      const get = await workspace.client(server, "get", [name, `copy-${bytes}`]);
      assertEquals(get.status, 0, get.stderr);
      assertEquals(await sha256(workspace.file(`copy-${bytes}`)), hash);
    }
    const left = [...Deno.readDirSync(workspace.root)].map(({ name }) => name);
    assertEquals(left.filter((name) => name.startsWith(".")), []);
  },
);

sessionTest(
  "both sides report the same numbers, with PSNs of their own for each session",
  async (workspace, server) => {
    const runs = await Promise.all(
      ["a", "b"].map((text) => workspace.client(server, "echo", [text])),
    );
    const sessions = runs.map(({ records }) => records[0]!.session as SessionFacts);
    for (const { id, local, remote, mtu } of sessions) {
      const line = await server.logged((candidate) =>
        candidate.message === "session established" && candidate.session === id
      );
      const hex = (psn: number) => `0x${psn.toString(16).padStart(6, "0")}`;
      assertEquals(
        [line.qpn, line.psn, line.gid, line.peerQpn, line.peerPsn, line.peerGid, line.mtu],
        [remote.qpn, hex(remote.psn), remote.gid, local.qpn, hex(local.psn), local.gid, mtu],
      );
      assertEquals(mtu, 4096);
    }
    const psns = sessions.flatMap(({ local, remote }) => [local.psn, remote.psn]);
    assertEquals(new Set(psns).size, 4, `PSNs ${psns}`);
  },
);

sessionTest(
  "the connection manager brings queue pairs up with the PSNs agreed in TLS",
  async (workspace, server) => {
    const echo = await workspace.client(server, "echo", ["managed", "--connect", "cm"]);
    assertEquals([echo.status, echo.records[0]?.answer], [0, "managed"], echo.stderr);
    await randomFile(workspace.file("file"), 1_000_000);
    const put = await workspace.client(server, "put", ["file", "--connect", "cm"]);
    assertEquals(put.status, 0, put.stderr);
    assertEquals(await sha256(`${workspace.root}/file`), await sha256(workspace.file("file")));
  },
  ["--connect", "cm"],
);

sessionTest("32 clients at once all have their transfers right", async (workspace, server) => {
  const names = Array.from({ length: 32 }, (_, index) => `file-${index}`);
  for (const name of names) await randomFile(workspace.file(name), 300_000);
  const puts = await Promise.all(
    names.map((name) => workspace.client(server, "put", [name, "--timeout", "60"])),
  );
  assertEquals(puts.map(({ status, stderr }) => [status, stderr]), names.map(() => [0, ""]));
  for (const name of names) {
    assertEquals(await sha256(`${workspace.root}/${name}`), await sha256(workspace.file(name)));
  }
  const established = server.log.filter(({ message }) => message === "session established");
  assertEquals(established.length, 32);
  assertEquals(new Set(established.flatMap(({ psn, peerPsn }) => [psn, peerPsn])).size, 64);
  await eventually(
    "no session is left",
    async () => (await rdmaResources()).qp === before.qp,
    1000,
  );
}, ["--handshake-timeout", "60"]);

sessionTest(
  "a server with one connected client, both idle, uses under 1 % of a core",
  async (workspace, server) => {
    const ping = workspace.client(server, "ping", ["--count", "2", "--interval", "12s"]);
    await server.logged(({ message }) => message === "session established");
    // The first echo and what the start left behind pass first.
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const used = async () => {
      const fields = (await Deno.readTextFile(`/proc/${server.pid}/stat`)).split(") ")[1]!.split(
        " ",
      );
      return Number(fields[11]) + Number(fields[12]); // utime and stime, in hundredths of a second
    };
    const start = await used();
    const seconds = 10;
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    const share = (await used() - start) / seconds;
    assertEquals((await ping).status, 0);
    assert(share < 1, `${share} % of a core`);
  },
);

Deno.test("verbseal devices shows the port and says which it would use", async () => {
  const { status, records } = await run(["devices", "--json"]);
  assertEquals(status, 0);
  const { devices, selected } = records[0] as {
    devices: { name: string; ports: { state: string }[] }[];
    selected: { device: string; gid: string };
  };
  assertEquals([devices[0]?.name, devices[0]?.ports[0]?.state], ["rxe0", "ACTIVE"]);
  assertEquals([selected.device, selected.gid], ["rxe0", "::ffff:10.9.0.1"]);
});
