import { assert, assertEquals, assertRejects } from "@std/assert";
import { RefusedError, VerbsealError } from "../../lib/errors.ts";
import { createSocket } from "node:dgram";
import { auditPaths, readAuditHead, readAuditKey } from "../../lib/security/audit_key_and_head.ts";
import { type AuditReport, verifyAudit } from "../../lib/security/audit_verify.ts";
import { message } from "../../lib/services/plain_messages.ts";
import type { Client } from "../../lib/services/client.ts";
import { openClient } from "../client.ts";
import { randomFile, run, RunningServer, sha256, Workspace } from "../program.ts";
import { provider } from "../provider.ts";
import { verbsTest } from "../rdma/resources.ts";
import { auditing, eventsOf, type Line, linesOf } from "./audit_lines.ts";

/** Servers of this file ask for certificates, but need none. */
const asking = [...auditing, "--client-ca", "certs/ca.pem", "--client-auth", "optional"];

const subjectOf = (line: Line) => (line["identity"] as Line)["subject"];

async function verify(workspace: Workspace): Promise<AuditReport> {
  const { file, key, head } = auditPaths(workspace.file("audit.jsonl"));
  return await verifyAudit([file], await readAuditKey(key), await readAuditHead(head));
}

async function withCertificate(workspace: Workspace, server: RunningServer): Promise<Client> {
  return await openClient(workspace, server, {
    identity: {
      certificate: await Deno.readTextFile(workspace.file("certs/client.pem")),
      key: await Deno.readTextFile(workspace.file("certs/client.key")),
    },
  });
}

/** Lines of one session, and those of its connection before it had a name. */
function ofSession(lines: Line[], session: string): Line[] {
  const { peer } = lines.find((line) => line["session"] === session)!;
  return lines.filter((line) => line["peer"] === peer);
}

verbsTest(
  "what a session may do, does and does not get is on record, with its identity",
  async () => {
    await using workspace = await Workspace.create();
    await using server = await RunningServer.start(workspace, asking);
    await randomFile(workspace.file("near"), 300_000);
    let name = "";
    {
      await using client = await withCertificate(workspace, server);
      const { session, files, memory, messages } = client;
      name = session.agreed.session;
      await session.during(messages.ask("ECHO", new Uint8Array(10)));
      await session.during(files.put(session, workspace.file("near"), "far"));
      await session.during(files.get(session, "far", workspace.file("back")));
      await assertRejects(
        () => session.during(files.get(session, "../far", "stolen")),
        RefusedError,
      );
      await session.during(memory.write(session, 5, new Uint8Array(7)));
      const done = await linesOf(workspace);
      assertEquals(done.at(-1)!["length"], "7", "a call is on record when it is answered");
    }
    assertEquals(await server.stop(), 0);
    const lines = await linesOf(workspace);
    assertEquals(lines.slice(0, 2).map(({ event }) => event), ["begin", "started"]);
    assertEquals(lines.at(-1)!["event"], "stopped");
    const own = ofSession(lines, name);
    assertEquals(
      own.map(({ event, operation, result }) =>
        [event, operation, result].filter(Boolean).join(" ")
      ),
      [
        "policy",
        "accepted",
        "service put done",
        "service get done",
        "service get EXDEV",
        "service grant done",
        "ended",
      ],
    );
    for (const line of own) {
      assertEquals(subjectOf(line), "CN=Verbseal client");
      assertEquals(line["session"], line["event"] === "policy" ? undefined : name);
      assert(Date.now() - Date.parse(String(line["time"])) < 60_000);
    }
    const [policy, accepted, put, get, outside, grant, ended] = own as [
      Line,
      Line,
      Line,
      Line,
      Line,
      Line,
      Line,
    ];
    assertEquals([policy["allowed"], policy["services"]], [true, ["messages", "memory", "files"]]);
    assertEquals(accepted["transport"], "rdma");
    const hash = await sha256(workspace.file("near"));
    for (const [line, path] of [[put, "far"], [get, "far"]] as const) {
      assertEquals([line["path"], line["size"], line["sha256"]], [path, "300000", hash]);
    }
    assertEquals([outside["path"], outside["sha256"]], ["../far", undefined]);
    assertEquals([grant["direction"], grant["offset"], grant["length"]], ["write", "5", "7"]);
    assertEquals(ended["reason"], "bye");
    const usage = {
      messages: { calls: 1, received: 10, sent: 10 },
      memory: { calls: 1, received: 7, sent: 0 },
      files: { calls: 3, received: 300_000, sent: 300_000 },
    };
    assertEquals(ended["usage"], usage);
    const logged = await server.logged(({ message }) => message === "session ended");
    assertEquals(logged["usage"], usage);
    assertEquals((await verify(workspace)).lines, lines.length);
  },
);

verbsTest("who is not let in is on record with the reason", async () => {
  await using workspace = await Workspace.create();
  await Deno.writeTextFile(
    workspace.file("policy.yaml"),
    "rules: [{ name: staff, match: { organization: Other }, allow: { services: files } }]",
  );
  await using server = await RunningServer.start(workspace, [...asking, "--policy", "policy.yaml"]);
  await assertRejects(() => withCertificate(workspace, server), RefusedError);
  await using stranger = await Deno.connect({ hostname: provider.address, port: server.port });
  await stranger.write(new TextEncoder().encode("GET / HTTP/1.1\r\n\r\n"));
  await server.logged(({ reason }) => reason === "not_tls");
  await server.stop();
  const lines = (await linesOf(workspace)).slice(2, -1);
  assertEquals(
    lines.map(({ event, reason, allowed }) => ({ event, reason, allowed })),
    [
      { event: "policy", reason: "policy", allowed: false },
      { event: "refused", reason: "policy", allowed: undefined },
      { event: "refused", reason: "not_tls", allowed: undefined },
    ],
  );
  assertEquals(subjectOf(lines[1]!), "CN=Verbseal client");
  const { hostname, port } = stranger.localAddr as Deno.NetAddr;
  assertEquals([lines[2]!["peer"], lines[2]!["identity"]], [`${hostname}:${port}`, undefined]);
});

verbsTest("what a session has asked over TLS alone is on record, too", async () => {
  await using workspace = await Workspace.create();
  await using server = await RunningServer.start(workspace, [...auditing, "--transport", "ktls"]);
  {
    await using client = await openClient(workspace, server, { transports: ["ktls"] });
    const { session, memory, messages } = client;
    await session.during(messages.ask("ECHO", new Uint8Array(10)));
    await session.during(messages.ask("REVERSE", new Uint8Array(50_000)));
    await session.during(memory.read(session, 0, 3));
  }
  await server.stop();
  assertEquals(await eventsOf(workspace, "ended", "reason", "usage"), [["bye", {
    messages: { calls: 2, received: 50_010, sent: 50_010 },
    memory: { calls: 1, received: 0, sent: 3 },
  }]]);
});

verbsTest("plain clients of the message service are on record, too", async () => {
  await using workspace = await Workspace.create();
  await using server = await RunningServer.start(
    workspace,
    [...auditing, "--messages-listen", ":0", "--max-message-clients", "1"],
  );
  const { messagesAddress } = await server.logged(({ message }) => message === "listening");
  const port = Number(String(messagesAddress).split(":").at(-1));
  const address = { hostname: provider.address, port };
  const caCerts = [await Deno.readTextFile(workspace.file("certs/ca.pem"))];
  const tls = await Deno.connectTls({ ...address, caCerts });
  await tls.write(message("TIME", new TextEncoder().encode("hello")));
  await tls.read(new Uint8Array(100));
  using _another = await Deno.connect(address);
  await server.logged(({ reason }) => reason === "message_clients");
  tls.close();
  const gone = await server.logged(({ message }) => message === "message client gone");
  await server.stop();
  const lines = (await linesOf(workspace)).slice(2, -1);
  const sent = new Date().toISOString().length;
  const usage = { messages: { calls: 1, received: 5, sent } };
  assertEquals(lines.map(({ event, reason, usage }) => [event, reason, usage]), [
    ["policy", undefined, undefined],
    ["accepted", undefined, undefined],
    ["limit", "message_clients", undefined],
    ["ended", "closed", usage],
  ]);
  assertEquals([gone["requests"], gone["received"], gone["sent"]], [1, 5, sent]);
  assertEquals(lines.map(({ identity }) => identity), [
    ...["anonymous", "anonymous"],
    undefined,
    "anonymous",
  ]);
});

verbsTest("what a client may do is on record where there is room for it", async () => {
  await using workspace = await Workspace.create();
  await using server = await RunningServer.start(workspace, [...auditing, "--max-clients", "1"]);
  {
    await using _client = await openClient(workspace, server);
    // The client has a session a little earlier than the server.
    await server.logged(({ message }) => message === "session established");
    await assertRejects(() => openClient(workspace, server), RefusedError);
  }
  await server.logged(({ message }) => message === "session ended");
  await server.stop();
  const lines = (await linesOf(workspace)).slice(2, -1);
  assertEquals(lines.map(({ event }) => event), [
    "policy",
    "accepted",
    "limit",
    "refused",
    "ended",
  ]);
});

verbsTest("packets that no peer sends are noticed", async () => {
  if (provider.name !== "roce") return; // a NIC drops them, and counts what its driver knows
  await using workspace = await Workspace.create();
  await using server = await RunningServer.start(workspace, auditing);
  await using client = await openClient(workspace, server);
  const { agreed } = client.session;
  assert(agreed.transport === "rdma");
  const socket = createSocket("udp4");
  await new Promise((resolve) =>
    socket.send(new Uint8Array(100), agreed.remote.udpPort!, provider.address, resolve)
  );
  socket.close();
  await server.logged(({ message }) => message === "a port has counted errors");
  await server.stop();
  const moved = (await linesOf(workspace)).flatMap((line) => line["moved"] ?? []);
  assertEquals(moved, [{ unknown_queue_pair: 1 }]);
});

verbsTest(
  "a server killed in the middle leaves a log that verifies, and goes on with it",
  async () => {
    await using workspace = await Workspace.create();
    {
      await using server = await RunningServer.start(workspace, auditing);
      const connect = async () => {
        for (;;) await (await openClient(workspace, server))[Symbol.asyncDispose]();
      };
      const busy = Promise.allSettled(Array.from({ length: 4 }, connect));
      const ended = () => server.log.filter(({ message }) => message === "session ended");
      await server.logged(() => ended().length > 20);
      await server.stop("SIGKILL");
      await busy;
    }
    const before = await verify(workspace);
    assert(before.lines > 60, `${before.lines} lines`);
    await using server = await RunningServer.start(workspace, auditing);
    await using _client = await openClient(workspace, server);
    const after = await verify(workspace);
    assertEquals(after.chain, before.chain);
    assert(after.lines > before.lines);
  },
);

verbsTest("SIGHUP lets the log go on in a new file when the old one was moved away", async () => {
  await using workspace = await Workspace.create();
  await using server = await RunningServer.start(workspace, auditing);
  const { file, key } = auditPaths(workspace.file("audit.jsonl"));
  await Deno.rename(file, `${file}.1`);
  Deno.kill(server.pid, "SIGHUP");
  await server.logged(({ message }) => message.includes("goes on in a new file"));
  await server.logged(({ message }) => message === "certificates read again");
  await server.stop();
  const { lines, continued } = await verifyAudit([`${file}.1`, file], await readAuditKey(key));
  assertEquals([lines, continued], [5, false]);
  const [, configuration] = await linesOf(workspace);
  const { event, what, result } = configuration!;
  assertEquals([event, what, result], ["configuration", "certificates", "done"]);
});

verbsTest("a server whose log was cut off does not start, and says what can be done", async () => {
  await using workspace = await Workspace.create();
  {
    await using server = await RunningServer.start(workspace, auditing);
    await server.stop();
    const head = await server.logged(({ message }) => message === "audit head");
    assertEquals(head["sequence"], 2);
  }
  const lines = (await Deno.readTextFile(workspace.file("audit.jsonl"))).split("\n");
  await Deno.writeTextFile(workspace.file("audit.jsonl"), lines.slice(0, 2).join("\n") + "\n");
  const start = (...args: string[]) =>
    run(["server", "--port", "0", ...args], { cwd: workspace.path });
  const { status, stderr } = await start(...auditing);
  assertEquals(status, 6);
  assert(stderr.includes("it was changed or cut off. Look into it with verbseal audit"), stderr);
  const alone = await start("--audit-key", "key");
  assertEquals(alone.status, 2);
  assert(alone.stderr.includes("without --audit there is none"), alone.stderr);
});

verbsTest("a server that cannot write its log lets nobody in, and does nothing", async () => {
  await using workspace = await Workspace.create();
  await using server = await RunningServer.start(workspace, auditing);
  await using client = await openClient(workspace, server);
  // All lines of what has been are on disk when the server answers.
  await client.session.during(client.memory.write(client.session, 0, new Uint8Array(1)));
  // Its folder cannot take the new file that the moved one asks for.
  await Deno.rename(workspace.file("audit.jsonl"), workspace.file("moved"));
  await Deno.mkdir(workspace.file("audit.jsonl"));
  const refused = await assertRejects(() => openClient(workspace, server), VerbsealError);
  assertEquals(refused.code, "audit");
  const { session, files } = client;
  const put = () => session.during(files.put(session, workspace.file("moved"), "copy"));
  assertEquals((await assertRejects(put, RefusedError)).code, "audit");
  assertEquals([...Deno.readDirSync(workspace.root)], []);
  await server.logged(({ message, level }) => level === "error" && message.includes("nobody new"));
  await Deno.remove(workspace.file("audit.jsonl"));
  await server.logged(({ message }) => message === "the audit log can be written again");
  await (await openClient(workspace, server))[Symbol.asyncDispose]();
});
