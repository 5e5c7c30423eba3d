import { assert, assertEquals } from "@std/assert";
import { openClient } from "../client.ts";
import { serverTest } from "../own_server.ts";
import { assertHeld, heldResources, randomFile, sha256 } from "../program.ts";
import { provider } from "../provider.ts";

/** Percent of a core; a guest's is emulated, ten times slower, and has counters of the device to look at. */
const IDLE_SHARE = provider.name === "verbs" ? 5 : 1;

serverTest(
  "both sides report the same numbers, with PSNs of their own for each session",
  async (workspace, server) => {
    const psns = new Set<number>();
    for (let count = 0; count < 2; count++) {
      await using client = await openClient(workspace, server);
      const { agreed } = client.session;
      assert(agreed.transport === "rdma");
      const { session, local, remote, path } = agreed;
      const line = await server.logged((candidate) =>
        candidate.message === "session established" && candidate.session === session
      );
      const hex = (psn: number) => `0x${psn.toString(16).padStart(6, "0")}`;
      assertEquals(
        [line.qpn, line.psn, line.gid, line.peerQpn, line.peerPsn, line.peerGid, line.mtu],
        [remote.qpn, hex(remote.psn), remote.gid, local.qpn, hex(local.psn), local.gid, path.mtu],
      );
      assertEquals(path.mtu, 4096);
      psns.add(local.psn).add(remote.psn);
    }
    assertEquals(psns.size, 4, `PSNs ${[...psns]}`);
  },
);

serverTest("32 clients at once all have their transfers right", async (workspace, server) => {
  const open = () => openClient(workspace, server, { handshakeSeconds: 60 });
  {
    await using first = await open();
    await first.messages.ask("ECHO", new Uint8Array(1));
  }
  await server.logged(({ message }) => message === "session ended");
  const alone = await heldResources(server);
  const names = Array.from({ length: 32 }, (_, index) => `file-${index}`);
  for (const name of names) await randomFile(workspace.file(name), 300_000);
  {
    await using clients = new AsyncDisposableStack();
    await Promise.all(names.map(async (name) => {
      const { session, files } = clients.use(await open());
      await session.during(files.put(session, workspace.file(name), name));
    }));
  }
  for (const name of names) {
    assertEquals(await sha256(`${workspace.root}/${name}`), await sha256(workspace.file(name)));
  }
  const established = () => server.log.filter(({ message }) => message === "session established");
  await server.logged(() => established().length === 1 + 32);
  assertEquals(new Set(established().flatMap(({ psn, peerPsn }) => [psn, peerPsn])).size, 2 * 33);
  await assertHeld(alone, server);
}, ["--handshake-timeout", "60"]);

serverTest(
  `a server with one connected client, both idle, uses under ${IDLE_SHARE} % of a core`,
  async (workspace, server) => {
    await using _client = await openClient(workspace, server);
    // What the start left behind passes first.
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
    assert(share < IDLE_SHARE, `${share} % of a core`);
  },
);

serverTest("clients that leave at once have had a session", async (workspace, server) => {
  const clients = 20;
  for (let count = 0; count < clients; count++) {
    await (await openClient(workspace, server))[Symbol.asyncDispose]();
  }
  const ended = () => server.log.filter(({ message }) => message === "session ended");
  await server.logged(() => ended().length === clients);
  assertEquals(new Set(ended().map(({ reason }) => reason)), new Set(["bye"]));
});
