/** What goes wrong in sessions, and that the server's audit log tells of it. */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { RefusedError, VerbsealError } from "../../lib/errors.ts";
import type { Client } from "../../lib/services/client.ts";
import { Download, Upload } from "../../lib/services/unfinished_transfers.ts";
import type { SessionUsage } from "../../lib/session/usage.ts";
import { openClient } from "../client.ts";
import { randomFile, RunningServer, Workspace } from "../program.ts";
import { provider } from "../provider.ts";
import { verbsTest } from "../rdma/resources.ts";
import { auditing, eventsOf } from "./audit_lines.ts";
import { CuttingProxy } from "./cutting_proxy.ts";
import { intrude } from "./intruder.ts";

const SIZE = 2 ** 24;

/** Calls this once, when a quarter of a file has been moved. */
function atQuarter(disturb: () => void): (bytes: number) => void {
  let disturbed = false;
  return (bytes) => {
    if (disturbed || bytes < SIZE / 4) return;
    disturbed = true;
    disturb();
  };
}

function move({ session, files }: Client, unfinished: Upload | Download) {
  return deadline(session.during(files.move(session, unfinished)), 60_000);
}

/** Goes on with a transfer that the first session could not end; gives both sessions' names. */
async function moveInTwo(
  unfinished: Upload | Download,
  open: (resume?: string) => Promise<Client>,
  opened: (client: Client) => void = () => {},
): Promise<[lost: string, next: string]> {
  await using first = await open();
  opened(first);
  await assertRejects(() => move(first, unfinished), VerbsealError);
  await first[Symbol.asyncDispose]();
  const lost = first.session.agreed.session;
  await using second = await open(lost);
  await move(second, unfinished);
  return [lost, second.session.agreed.session];
}

/** What the line that ended a session tells of the file service. */
async function filesIn(workspace: Workspace, name: string) {
  const ends = await eventsOf(workspace, "ended", "session", "usage");
  const [, usage] = ends.find(([session]) => session === name)!;
  return (usage as SessionUsage).files!;
}

// Forged packets reach the embedded provider only.
if (provider.name === "roce") {
  verbsTest("a queue pair that was replaced and the put that went on are on record", async () => {
    await using workspace = await Workspace.create();
    await using server = await RunningServer.start(workspace, auditing);
    const near = workspace.file("near");
    await randomFile(near, SIZE);
    let name = "";
    {
      await using client = await openClient(workspace, server);
      name = client.session.agreed.session;
      const disturb = () => intrude("server", client, { sent: 4 });
      using upload = new Upload(near, "far", atQuarter(disturb));
      await move(client, upload);
    }
    await server.stop();
    // Either side may be the first to notice that it failed.
    const fields = ["session", "epoch", "operation", "path", "resume"];
    const replaced = [name, 1, undefined, undefined, undefined];
    const wentOn = [name, undefined, "put", "far", name];
    assertEquals(await eventsOf(workspace, "recovery", ...fields), [replaced, wentOn]);
    const [, [offset]] = await eventsOf(workspace, "recovery", "offset") as [unknown[], unknown[]];
    assert(Number(offset) > 0 && Number(offset) < SIZE, `${offset}`);
    const { calls, received } = await filesIn(workspace, name);
    assertEquals(calls, 2, "of both queue pairs");
    assert(received >= SIZE, `${received} bytes`);
  });

  verbsTest(
    "a record that was forged is on record, and the get that went on after it",
    async () => {
      await using workspace = await Workspace.create();
      await using server = await RunningServer.start(workspace, auditing);
      await randomFile(`${workspace.root}/far`, SIZE);
      let victim: Client | undefined;
      const forge = () => intrude("server", victim!, { sent: 4, forge: true });
      using download = new Download("far", workspace.file("near"), atQuarter(forge));
      const open = (resume?: string) => openClient(workspace, server, { resume });
      const [lost, next] = await moveInTwo(download, open, (client) => victim = client);
      await server.stop();
      const [[session, reason, count]] = await eventsOf(
        workspace,
        "integrity",
        ...["session", "reason", "count"],
      ) as [unknown[]];
      assertEquals([session, count], [lost, 1]);
      assertMatch(String(reason), /^record_/);
      const [ended] = await eventsOf(workspace, "ended", "session", "reason", "count");
      assertEquals(ended, [lost, reason, 1]);
      const fields = ["session", "operation", "path", "resume"];
      assertEquals(await eventsOf(workspace, "recovery", ...fields), [[next, "get", "far", lost]]);
    },
  );
}

verbsTest("a put that went on over TLS alone is on record with who has begun it", async () => {
  await using workspace = await Workspace.create();
  await using server = await RunningServer.start(workspace, [...auditing, "--transport", "ktls"]);
  await using proxy = new CuttingProxy(server.port);
  const near = workspace.file("near");
  await randomFile(near, SIZE);
  using upload = new Upload(near, "far", atQuarter(() => proxy.cut()));
  // Which session it goes on with the second one does not say: the server knows.
  const open = () => openClient(workspace, proxy, { transports: ["ktls"] });
  const [lost, next] = await moveInTwo(upload, open);
  await server.stop();
  const fields = ["session", "operation", "path", "resume", "offset"];
  const [line] = await eventsOf(workspace, "recovery", ...fields) as [unknown[]];
  assertEquals(line.slice(0, -1), [next, "put", "far", lost]);
  const offset = Number(line.at(-1));
  assert(offset > 0 && offset < SIZE, `${offset}`);
  const [before, after] = [await filesIn(workspace, lost), await filesIn(workspace, next)];
  assertEquals([before.calls, after.calls, after.received], [1, 1, SIZE - offset]);
  assert(before.received >= offset, `${before.received} bytes`);
});

verbsTest("what a session wants beyond its limits is on record", async () => {
  await using workspace = await Workspace.create();
  const limits = ["--message-rate", "10", "--max-registered", "512KiB", "--lent-memory", "64KiB"];
  await using server = await RunningServer.start(workspace, [...auditing, ...limits]);
  await randomFile(workspace.file("near"), 1000);
  let name = "";
  let asked = 0;
  {
    await using client = await openClient(workspace, server);
    const { session, files, messages } = client;
    name = session.agreed.session;
    const put = () => session.during(files.put(session, workspace.file("near"), "far"));
    assertEquals((await assertRejects(put, RefusedError)).code, "registered_memory");
    let slowed = false;
    server.logged(({ message }) => message === "session slowed down").then(() => slowed = true);
    for (; !slowed; asked += 1) await session.during(messages.ask("ECHO", new Uint8Array(1)));
  }
  await server.stop();
  const hit = await eventsOf(workspace, "limit", "session", "limit", "action");
  // It is slowed down again before a slow machine's log is read.
  assertEquals([...new Set(hit.map((each) => each.join(" ")))], [
    `${name} registered_memory refused`,
    `${name} message_rate slowed`,
  ]);
  const [[, usage]] = await eventsOf(workspace, "ended", "session", "usage") as [unknown[]];
  assertEquals((usage as SessionUsage).messages?.calls, asked);
});
