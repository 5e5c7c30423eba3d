import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { type LogLine, type Run, RunningServer, Workspace } from "../program.ts";
import { verbsTest } from "../rdma/resources.ts";
import { OcspAuthority, serials } from "../tls/ocsp_authority.ts";
import { openssl } from "../tls/openssl.ts";
import type { Identity } from "../../lib/tls/trust.ts";

async function writePair(workspace: Workspace, name: string, pair: Identity): Promise<void> {
  await Deno.writeTextFile(workspace.file(`certs/${name}.pem`), pair.certificate);
  await Deno.writeTextFile(workspace.file(`certs/${name}.key`), pair.key, { mode: 0o600 });
}

verbsTest("a server staples what its responder says, and asks about its clients", async () => {
  await using workspace = await Workspace.create("localhost");
  await using authority = await OcspAuthority.create();
  await using responder = await authority.serve();
  const { url } = responder;
  await Deno.writeTextFile(workspace.file("certs/ca.pem"), authority.identity.certificate);
  await writePair(workspace, "server", await authority.issue(serials.good, { url }));
  for (const [name, serial] of Object.entries(serials)) {
    await writePair(workspace, name, await authority.issue(serial, { url, use: "clientAuth" }));
  }
  const asking = ["--client-ca", "certs/ca.pem", "--ocsp", "require"];
  await using server = await RunningServer.start(workspace, asking);
  const ping = (name: string): Promise<Run> => {
    const pair = ["--cert", `certs/${name}.pem`, "--key", `certs/${name}.key`];
    const trusting = ["--server-name", "localhost", "--ocsp", "require"];
    return workspace.client(server, "ping", ["--count", "1", ...pair, ...trusting]);
  };
  const good = await ping("good");
  assertEquals(good.status, 0, good.stderr);
  const revoked = await ping("revoked");
  assertEquals(revoked.status, 5, revoked.stderr);
  assert(revoked.stderr.includes("is revoked (keyCompromise)"), revoked.stderr);
  await server.logged(({ reason }) => reason === "certificate_revoked");
  const unknown = await ping("unknown");
  assertEquals(unknown.status, 5, unknown.stderr);
  await server.logged(({ reason }) => reason === "certificate_unknown");
  assertEquals((await ping("good")).status, 0, "the others' answers are not its own");

  // What is known by now is said within the handshake: also who speaks TLS alone hears why.
  const pair = ["pem", "key"].map((ending) => workspace.file(`certs/revoked.${ending}`));
  for (const renewed of [false, true]) {
    if (renewed) {
      await writePair(workspace, "server", await authority.issue(serials.good, { url }));
      await server.logged(({ message, changed }) =>
        message === "certificates read again" && changed === true
      );
    }
    server.log.length = 0;
    const { text } = await openssl(
      ...["s_client", "-connect", `127.0.0.1:${server.port}`, "-alpn", "verbseal/1", "-ign_eof"],
      ...["-cert", pair[0]!, "-key", pair[1]!],
    );
    assertStringIncludes(text, "alert number 44");
    await server.logged(({ reason }) => reason === "certificate_revoked");
    assertStringIncludes((await ping("revoked")).stderr, "certificate: it has been revoked");
  }
});

verbsTest("a server's response outlasts its responder when other files change", async () => {
  await using workspace = await Workspace.create("localhost");
  await using authority = await OcspAuthority.create();
  await using responder = await authority.serve();
  const { url } = responder;
  const files = { ca: workspace.file("certs/ca.pem"), policy: workspace.file("policy.yaml") };
  await Deno.writeTextFile(files.ca, authority.identity.certificate);
  await writePair(workspace, "server", await authority.issue(serials.good, { url }));
  await Deno.writeTextFile(
    files.policy,
    "rules: [{ match: { anonymous: true }, allow: { services: [] } }]",
  );
  const asking = ["--client-ca", "certs/ca.pem", "--client-auth", "optional"];
  const deciding = ["--policy", "policy.yaml"];
  await using server = await RunningServer.start(workspace, [...asking, ...deciding]);
  const ping = async () => {
    const trusting = ["--server-name", "localhost", "--ocsp", "require"];
    return (await workspace.client(server, "ping", ["--count", "1", ...trusting])).stderr;
  };
  const reread = (what: string, changed: (line: LogLine) => boolean = () => true) =>
    server.logged((line) => line.message === `${what} read again` && changed(line));

  assertStringIncludes(await ping(), "policy", "the response is there at the first handshake");
  await writePair(workspace, "server", await authority.issue(serials.good, { url }));
  await reread("certificates", ({ changed }) => changed === true);
  server.log.length = 0;
  await responder.stop();

  const allowing = "rules: [{ match: { anonymous: true }, allow: { services: messages } }]";
  await Deno.writeTextFile(files.policy, allowing);
  await reread("policy");
  await reread("certificates", ({ changed }) => changed === false);
  assertEquals(await ping(), "");

  await using other = await OcspAuthority.create();
  const both = authority.identity.certificate + other.identity.certificate;
  await Deno.writeTextFile(files.ca, both);
  await reread("certificates", ({ changed }) => changed === true);
  assertEquals(await ping(), "");
});

verbsTest("a client that requires a stapled response refuses a server without", async () => {
  await using workspace = await Workspace.create("localhost");
  await using server = await RunningServer.start(workspace, ["--tls-min", "1.3"]);
  const { status, stderr } = await workspace.client(server, "ping", ["--ocsp", "require"]);
  assertEquals(status, 3, stderr);
  assert(stderr.includes("no OCSP response"), stderr);
});
