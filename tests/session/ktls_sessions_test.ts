/** Sessions whose data goes over data connections: through the program, with workers of its own. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { libcrypto } from "../../ffi/libcrypto.ts";
import { ClientExchange, type Step } from "../../lib/control/exchange.ts";
import type { Transport } from "../../lib/control/messages.ts";
import { encodeJoin, JOIN_BYTES } from "../../lib/control/join.ts";
import { RdmaError, RefusedError } from "../../lib/errors.ts";
import { ControlConnection } from "../../lib/session/control_connection.ts";
import { loadAuthority } from "../../lib/tls/authority.ts";
import { dial } from "../../lib/tls/backend.ts";
import { endpointText, type TlsConnection } from "../../lib/tls/connection.ts";
import { dataProtocol } from "../../lib/tls/data_connection.ts";
import type { Client } from "../../lib/services/client.ts";
import { openClient } from "../client.ts";
import { serverTest } from "../own_server.ts";
import { randomFile, reaching, run, RunningServer, sha256, Workspace } from "../program.ts";
import { provider } from "../provider.ts";
import { verbsTest } from "../rdma/resources.ts";
import { tlsBackend } from "../tls_backend.ts";
import { clientIdentity } from "../tls/client_certificate.ts";
import { dataPair } from "./tls_pair.ts";

// Deno's check for leaks wants libraries and their callbacks there before the first test.
await (await dataPair())[Symbol.asyncDispose]();

const ktls = { transports: ["ktls"] } as const;

/** Uses every service. */
async function useAll(client: Client, workspace: Workspace, fileBytes: number): Promise<void> {
  const { session, messages, memory, files } = client;
  const body = crypto.getRandomValues(new Uint8Array(60_000));
  assertEquals(await session.during(messages.ask("ECHO", body)), body);
  await session.during(memory.write(session, 5000, body));
  assertEquals(await session.during(memory.read(session, 5001, 59_999)), body.slice(1));
  const [sent, back] = [workspace.file("sent"), workspace.file("back")];
  await randomFile(sent, fileBytes);
  const hash = await sha256(sent);
  assertEquals((await session.during(files.put(session, sent, "file"))).sha256, hash);
  assertEquals(await sha256(`${workspace.root}/file`), hash);
  assertEquals((await session.during(files.get(session, "file", back))).sha256, hash);
  assertEquals(await sha256(back), hash);
}

serverTest(
  "a session over ktls has every service, and no queue pair",
  async (workspace, server) => {
    await using client = await openClient(workspace, server, ktls);
    const { agreed, port } = client.session;
    assert(agreed.transport === "ktls");
    assertEquals(port, undefined);
    const line = await server.logged(({ message }) => message === "session established");
    assertEquals([line.session, line.transport], [agreed.session, "ktls"]);
    assert(/^tx=(yes|no) rx=(yes|no)$/.test(String(line.ktls)), String(line.ktls));
    assert(!("qpn" in line) && !("psn" in line), "no numbers of a queue pair");
    await useAll(client, workspace, 3_000_000);
  },
  ["--transport", "any"],
);

serverTest("connections are replaced in the middle of transfers", async (workspace, server) => {
  await using client = await openClient(workspace, server, { ...ktls, rekeyBytes: 2 ** 19 });
  await useAll(client, workspace, 10_000_000);
  await useAll(client, workspace, 1_000_000);
  const replaced = server.log.filter(({ message }) => message === "data connection replaced");
  assert(replaced.length >= 4, `${replaced.length} connections`);
}, ["--transport", "ktls", "--log-level", "debug"]);

serverTest("a server offers what it was told to, and any client what both have", async (
  workspace,
  server,
) => {
  const refused = await assertRejects(
    () => openClient(workspace, server, { transports: ["rdma"] }),
    RefusedError,
  );
  assertEquals(refused.code, "transport");
  await using client = await openClient(workspace, server, { transports: ["rdma", "ktls"] });
  assertEquals(client.session.agreed.transport, "ktls");
}, ["--transport", "ktls"]);

serverTest("the program moves files over ktls and says so", async (workspace, server) => {
  await randomFile(workspace.file("file"), 300_000);
  const put = await workspace.client(server, "put", ["file", "--transport", "ktls"]);
  assertEquals(put.status, 0, put.stderr);
  const session = put.records[0]?.session as Record<string, unknown>;
  assertEquals(session.transport, "ktls");
  assertEquals(Object.keys(session).sort(), ["id", "kernel", "transport"]);
  assertEquals(await sha256(`${workspace.root}/file`), put.records[0]?.sha256);
}, ["--transport", "any"]);

/** A data connection that says what it likes. */
async function stranger(workspace: Workspace, server: RunningServer): Promise<TlsConnection> {
  const authority = await Deno.readTextFile(workspace.file("certs/ca.pem"));
  return await dial({
    hostname: provider.address,
    port: server.port,
    trust: { authorities: [authority] },
    handshakeSeconds: 5,
    protocol: dataProtocol,
    kernel: "preferred",
  });
}

serverTest("data connections that are nobody's end with one line, and disturb nobody", async (
  workspace,
  server,
) => {
  await using client = await openClient(workspace, server, ktls);
  const { session } = client.session.agreed;
  const token = crypto.getRandomValues(new Uint8Array(32));
  const attempts: [string, Uint8Array][] = [
    ["join_session", new Uint8Array(JOIN_BYTES)],
    ["join_epoch", encodeJoin({ session, epoch: 0, token })],
    ["join_epoch", encodeJoin({ session, epoch: 2, token })],
    ["join_token", encodeJoin({ session, epoch: 1, token })],
    ["exchange_timeout", new Uint8Array(JOIN_BYTES - 1)],
  ];
  for (const [code, bytes] of attempts) {
    const connection = await stranger(workspace, server);
    const peer = endpointText(connection.localAddress);
    await connection.write(bytes);
    const answer = await connection.read(new Uint8Array(1)).catch(() => null);
    assertEquals(answer, null, "the server says nothing");
    connection.abort();
    const line = server.logged((line) => line.message === "session ended" && line.peer === peer);
    assertEquals((await deadline(line, 10_000)).reason, code);
    assertEquals(server.log.filter((line) => line.peer === peer).length, 1);
  }
  await useAll(client, workspace, 100_000);
}, ["--transport", "ktls", "--handshake-timeout", "5s"]);

serverTest("8 clients at once over ktls all have their transfers right", async (
  workspace,
  server,
) => {
  const names = Array.from({ length: 8 }, (_, index) => `file-${index}`);
  for (const name of names) await randomFile(workspace.file(name), 300_000);
  await using clients = new AsyncDisposableStack();
  await Promise.all(names.map(async (name) => {
    const options = { ...ktls, handshakeSeconds: 60 };
    const { session, files } = clients.use(await openClient(workspace, server, options));
    await session.during(files.put(session, workspace.file(name), name));
  }));
  for (const name of names) {
    assertEquals(await sha256(`${workspace.root}/${name}`), await sha256(workspace.file(name)));
  }
}, ["--transport", "ktls", "--handshake-timeout", "60"]);

for (
  const [what, options, agrees] of [
    ["TLS 1.3 alone", ["--tls-min", "1.3"], /^TLSv1\.3 /],
    [
      "no suite of the kernel's",
      ["--tls-ciphers", "TLS_CHACHA20_POLY1305_SHA256"],
      / TLS_CHACHA20/,
    ],
  ] as const
) {
  serverTest(`a server with ${what} has its data sealed without the kernel, and a warning`, async (
    workspace,
    server,
  ) => {
    await using client = await openClient(workspace, server, { ...ktls, rekeyBytes: 65_536 });
    const { agreed } = client.session;
    assert(agreed.transport === "ktls");
    const { version, cipher } = agreed.handshake;
    assert(agrees.test(`${version} ${cipher}`), `${version} ${cipher}`);
    await useAll(client, workspace, 300_000);
    const line = await server.logged(({ level, message }) =>
      level === "warning" && message.startsWith("this process seals ktls data itself, where")
    );
    assertEquals([line.session, typeof line.remedy], [agreed.session, "string"]);
  }, ["--transport", "ktls", ...options]);
}

serverTest("a server that stops says so over ktls too", async (workspace) => {
  await using server = await RunningServer.start(workspace, ["--transport", "ktls"]);
  await using client = await openClient(workspace, server, ktls);
  const ended = assertRejects(
    () => client.session.during(new Promise<never>(() => {})),
    RdmaError,
    "the server is stopping",
  );
  assertEquals(await server.stop(), 0);
  await ended;
});

serverTest("both sides tell whom they met, verified, and by what", async (workspace, server) => {
  const authority = await loadAuthority(workspace.file("certs"));
  const identity = await clientIdentity(authority, { subject: [["O", "TestOrg"], ["CN", "Test"]] });
  await using _client = await openClient(workspace, server, { ...ktls, identity });
  const line = await server.logged(({ message }) => message === "session established");
  const { subject, issuer, verified, tls, cipher } = line;
  assertEquals([subject, verified], ["CN=Test,O=TestOrg", "yes"]);
  assert(String(issuer).startsWith("CN="), String(issuer));
  // OpenSSL before 3.2 has the kernel open records of TLS 1.2 only.
  const expected = libcrypto().OpenSSL_version_num() < 0x30200000n
    ? /^TLSv1\.2 ECDHE-(ECDSA|RSA)-AES256-GCM-SHA384$/
    : /^TLSv1\.3 TLS_AES_256_GCM_SHA384$/;
  assert(expected.test(`${tls} ${cipher}`), `${tls} ${cipher}`);

  const options = ["--transport", "ktls", "--log-level", "debug", "--log-format", "json"];
  const { stderr } = await workspace.client(server, "echo", ["hello", ...options]);
  const lines = stderr.split("\n").filter((text) => text !== "").map((text) => JSON.parse(text));
  const theirs = (message: string) => lines.find((line) => line.message === message);
  const met = theirs("session established");
  assertEquals([met.level, met.subject, met.issuer], ["info", "CN=Verbseal server", issuer]);
  assertEquals([met.verified, met.tls, met.cipher], ["yes", tls, cipher]);
  assertEquals(theirs("connected").tls, tlsBackend);

  const trusting = ["--trust-new", "--known-hosts", workspace.file("known_hosts")];
  const believing = await run(
    ["client", "echo", ...reaching(server), "hello", ...trusting, ...options],
    { cwd: workspace.path },
  );
  assert(believing.stderr.includes('"verified":"key only"'), believing.stderr);
}, ["--transport", "ktls", "--client-ca", "certs/ca.pem", "--client-auth", "optional"]);

serverTest("a client that never joins is not waited for, and nor is one that joins late", async (
  workspace,
  server,
) => {
  const authority = await Deno.readTextFile(workspace.file("certs/ca.pem"));
  const tls = await dial({
    hostname: provider.address,
    port: server.port,
    trust: { authorities: [authority] },
    handshakeSeconds: 5,
  });
  const peer = endpointText(tls.localAddress);
  const control = new ControlConnection(tls);
  const offers = { transports: ["ktls" as const], services: ["messages" as const] };
  const exchange = new ClientExchange({ offers, agent: "late" });
  const steps = exchange.start();
  for (const step of steps) if (step.do === "send") await control.sendFrame(step.frame);
  while (exchange.state !== "JOINING") steps.push(...exchange.receive((await control.next())!));
  await control.send({ name: "READY", body: { epoch: 0 } });
  const line = server.logged((line) => line.message === "session ended" && line.peer === peer);
  assertEquals((await deadline(line, 10_000)).reason, "exchange_timeout");
  await control.close();

  const link = steps.find((step) => step.do === "link")!;
  const { welcome: { session }, tokens } = link as Extract<Step, { do: "link" }>;
  const connection = await stranger(workspace, server);
  await connection.write(encodeJoin({ session, epoch: 0, token: tokens.own(0) }));
  await server.logged(({ reason }) => reason === "join_session");
  connection.abort();
}, ["--transport", "ktls", "--handshake-timeout", "3s"]);

verbsTest("without an RDMA device the policy decides, if the client leaves it open", async () => {
  await using workspace = await Workspace.create();
  const policy = workspace.file("policy.yaml");
  await Deno.writeTextFile(
    policy,
    "rules: [{ match: { anonymous: true }, allow: { services: messages, without-rdma: ktls } }]",
  );
  const options = ["--transport", "any", "--policy", policy];
  await using server = await RunningServer.start(workspace, options);
  const chosen = async (...transports: Transport[]) => {
    await using client = await openClient(workspace, server, { transports });
    return client.session.agreed.transport;
  };
  assertEquals(await chosen("rdma", "ktls"), provider.name === "roce" ? "ktls" : "rdma");
  assertEquals(await chosen("rdma"), "rdma");
  assertEquals(await chosen("ktls"), "ktls");
  assertEquals(await server.stop(), 0);
});
