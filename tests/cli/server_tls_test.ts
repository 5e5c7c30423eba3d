import { assert, assertEquals, assertRejects } from "@std/assert";
import { RefusedError, TlsError } from "../../lib/errors.ts";
import { writeCertificates } from "../../lib/tls/certificate_files.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import { run, RunningServer, Workspace } from "../program.ts";
import { openClient } from "../client.ts";
import { verbsTest } from "../rdma/resources.ts";

/** What openssl shows of the certificate that a server has now: its SHA-256 fingerprint. */
async function fingerprint(server: RunningServer, ...args: string[]): Promise<string> {
  const { stdout } = await new Deno.Command("sh", {
    args: [
      "-c",
      `openssl s_client -connect localhost:${server.port} -alpn verbseal/1 ${args.join(" ")} ` +
      "</dev/null 2>/dev/null | openssl x509 -noout -fingerprint -sha256",
    ],
  }).output();
  return new TextDecoder().decode(stdout).trim();
}

async function renew(workspace: Workspace, name = "certs/server.pem"): Promise<void> {
  const { status, stderr } = await run(["certs", "renew", name], { cwd: workspace.path });
  assertEquals(status, 0, stderr);
}

for (const [backend, args] of [["deno", []], ["openssl", ["--tls-min", "1.2"]]] as const) {
  verbsTest(`${backend}: a renewed certificate is used at once, and no session ends`, async () => {
    await using workspace = await Workspace.create("localhost");
    await using server = await RunningServer.start(workspace, args);
    await using client = await openClient(workspace, server);
    const before = await fingerprint(server);
    await renew(workspace);
    await server.logged(({ message }) => message === "certificates read again");
    const after = await fingerprint(server);
    assert(before !== "" && after !== "" && before !== after);
    const question = new TextEncoder().encode("still here");
    assertEquals(await client.messages.ask("ECHO", question), question);
  });

  verbsTest(
    `${backend}: certificates change again and again under load, no client fails`,
    async () => {
      await using workspace = await Workspace.create("localhost");
      await using server = await RunningServer.start(workspace, args);
      let renewed = false;
      const clients = Array.from({ length: 2 }, async () => {
        do {
          await using client = await openClient(workspace, server);
          const question = new TextEncoder().encode("hello");
          assertEquals(await client.messages.ask("ECHO", question), question);
        } while (!renewed);
      });
      const working = Promise.all(clients);
      working.catch(() => {}); // awaited below
      const seen = new Set([await fingerprint(server)]);
      for (let rotation = 1; rotation <= 2; rotation++) {
        await renew(workspace);
        const changes = () => server.log.filter(({ changed }) => changed === true);
        await server.logged(() => changes().length === rotation);
        seen.add(await fingerprint(server));
      }
      renewed = true;
      await working;
      assertEquals(seen.size, 3);
    },
  );
}

verbsTest(
  "SIGHUP reads certificates again, and what is none leaves the old one in use",
  async () => {
    await using workspace = await Workspace.create("localhost");
    await using server = await RunningServer.start(workspace);
    const before = await fingerprint(server);
    await Deno.writeTextFile(workspace.file("certs/server.pem"), "no certificate");
    Deno.kill(server.pid, "SIGHUP");
    const line = await server.logged(({ level }) => level === "error");
    assertEquals(line["reason"], "not_pem");
    assert(String(line["detail"]).includes("server.pem"));
    assertEquals(await fingerprint(server), before);
    assertEquals(await server.stop(), 0);
  },
);

/** What a client without a certificate may use. */
function anonymous(services: string): string {
  return `rules: [{ match: { anonymous: true }, allow: { services: ${services} } }]`;
}

verbsTest(
  "a policy that changes is for new clients, and what is none changes nothing",
  async () => {
    await using workspace = await Workspace.create();
    const policy = workspace.file("policy.yaml");
    await Deno.writeTextFile(policy, anonymous("messages"));
    await using server = await RunningServer.start(workspace, ["--policy", policy]);
    await using client = await openClient(workspace, server);
    const goesOn = async () => {
      const question = new TextEncoder().encode("still here");
      assertEquals(await client.messages.ask("ECHO", question), question);
      return await assertRejects(() => openClient(workspace, server), RefusedError);
    };
    await Deno.writeTextFile(policy, anonymous("[]"));
    await server.logged(({ message }) => message === "policy read again");
    assertEquals((await goesOn()).code, "policy");

    await Deno.writeTextFile(policy, anonymous("messages") + "\nnonsense: 1\n");
    const line = await server.logged(({ level }) => level === "error");
    assert(line.message.startsWith("policy not read again"), line.message);
    assert(String(line["detail"]).includes(`${policy}:2`), String(line["detail"]));
    assertEquals((await goesOn()).code, "policy");
  },
);

verbsTest("clients' authorities change for new clients, and no session ends", async () => {
  await using workspace = await Workspace.create();
  const former = await createCertificates({ hosts: ["localhost"], days: 1 });
  const latter = await createCertificates({ hosts: ["localhost"], days: 1 });
  const file = workspace.file("clients.pem");
  await Deno.writeTextFile(file, former.ca.certificate);
  await using server = await RunningServer.start(workspace, ["--client-ca", file]);
  await using client = await openClient(workspace, server, { identity: former.client });
  await Deno.writeTextFile(file, latter.ca.certificate);
  await server.logged(({ message }) => message === "certificates read again");
  await using _late = await openClient(workspace, server, { identity: latter.client });
  await assertRejects(() => openClient(workspace, server, { identity: former.client }), TlsError);
  const question = new TextEncoder().encode("still here");
  assertEquals(await client.messages.ask("ECHO", question), question);
});

for (const [days, warned] of [[13, true], [15, false]] as const) {
  verbsTest(`a certificate for ${days} more days is ${warned ? "" : "not "}warned of`, async () => {
    await using workspace = await Workspace.create();
    const certificates = await createCertificates({ hosts: ["localhost"], days });
    await writeCertificates(workspace.file("certs"), certificates, { overwrite: true });
    await using server = await RunningServer.start(workspace);
    await server.stop();
    const warnings = server.log.filter(({ message }) => message.includes("about to expire"));
    assertEquals(warnings.map(({ days }) => days), warned ? [12] : []);
  });
}

verbsTest("a client is asked for a certificate, and what it shows is in the log", async () => {
  await using workspace = await Workspace.create("localhost");
  const asking = ["--client-ca", "certs/ca.pem", "--crl", "certs/ca.crl"];
  await using server = await RunningServer.start(workspace, asking);
  const identity = {
    certificate: await Deno.readTextFile(workspace.file("certs/client.pem")),
    key: await Deno.readTextFile(workspace.file("certs/client.key")),
  };
  const refusal = () => assertRejects(() => openClient(workspace, server, { identity }), TlsError);

  const without = await assertRejects(() => openClient(workspace, server), TlsError);
  await server.logged(({ reason }) => reason === "certificate_missing");
  assertEquals(without.code, "certificate_required");

  await (await openClient(workspace, server, { identity }))[Symbol.asyncDispose]();
  const established = await server.logged(({ message }) => message === "session established");
  assert(JSON.stringify(established).includes("Verbseal client"), JSON.stringify(established));

  const options = { cwd: workspace.path };
  const revoked = await run(["certs", "revoke", "certs/client.pem"], options);
  assertEquals(revoked.status, 0, revoked.stderr);
  await server.logged(({ message }) => message === "certificates read again");
  const late = await refusal();
  await server.logged(({ reason }) => reason === "certificate_revoked");
  assert(late.message.includes("revoked"), late.message);
});

verbsTest("options about clients' certificates want the clients' authorities", async () => {
  const { status, stderr } = await run(["server", "--client-auth", "optional"]);
  assertEquals(status, 2);
  assert(stderr.includes("--client-ca"), stderr);
});
