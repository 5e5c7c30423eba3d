import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { idle } from "../../ffi/epoll.ts";
import { libc } from "../../ffi/libc.ts";
import { listen } from "../../lib/tls/backend.ts";
import { writeCertificates } from "../../lib/tls/certificate_files.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import { peerIdentity } from "../../lib/tls/peer_identity.ts";
import { daysFromNow, oddCertificate } from "../tls/odd_certificates.ts";
import { protocol, type TlsListener } from "../../lib/tls/connection.ts";
import { withFolder } from "../tls/openssl.ts";
import { serving } from "../tls/s_server.ts";
import { reaching, run, RunningServer, Workspace } from "../program.ts";
import { verbsTest } from "../rdma/resources.ts";
import { verbseal } from "./run.ts";

const hostname = "127.0.0.1";
const certificates = await createCertificates({ hosts: [hostname], days: 1 });

// Deno's check for leaks wants libraries loaded before the first test.
libc();
asking().close();
const pin = `sha256:${"A".repeat(43)}=`;

/** A client that must not get as far as connecting. */
async function refused(exitCode: number, says: string, ...options: string[]): Promise<void> {
  const { code, stderr } = await verbseal("client", "time", `${hostname}:1`, ...options);
  assertStringIncludes(stderr, says);
  assertEquals(code, exitCode, stderr);
}

Deno.test("options that contradict each other are refused", async () => {
  await refused(2, "cannot be used with", "--ca", "ca.pem", "--trust-new");
  await refused(2, "cannot be used with", "--pin", pin, "--trust-new");
  await refused(2, "cannot be used with", "--pin", pin, "--known-hosts", "known_hosts");
  await refused(2, "belong together", "--cert", "client.pem");
  await refused(2, "belong together", "--key", "client.key");
  await refused(2, "--crl needs --ca", "--crl", "ca.crl");
  await refused(2, "is no pin", "--pin", "sha256:abc");
  await refused(2, "unknown or weak", "--tls-ciphers", "AES128-SHA");
});

Deno.test("a client's certificate that is of no use is refused before anything is sent", async () => {
  await withFolder(async (folder) => {
    await writeCertificates(folder, certificates, { overwrite: false });
    const old = await oddCertificate({ notBefore: daysFromNow(-2), notAfter: daysFromNow(-1) });
    await Deno.writeTextFile(`${folder}/old.pem`, old.certificate);
    await Deno.writeTextFile(`${folder}/old.key`, old.key, { mode: 0o600 });
    await Deno.writeTextFile(`${folder}/open.key`, certificates.client.key);
    await Deno.chmod(`${folder}/open.key`, 0o644);
    const identity = (
      cert: string,
      key: string,
    ) => ["--cert", `${folder}/${cert}.pem`, "--key", `${folder}/${key}.key`];
    await refused(3, "There is no file", ...identity("none", "client"));
    await refused(3, "mode 644", ...identity("client", "open"));
    await refused(3, "does not belong", ...identity("client", "server"));
    await refused(3, "expired on", ...identity("old", "old"));
    await refused(3, "not be a client", ...identity("ca", "ca"));
  });
});

/** A server that asks for certificates. */
function asking(): TlsListener {
  const trust = { authorities: [certificates.ca.certificate] };
  const clientAuthentication = { trust, required: false };
  return listen({ hostname, port: 0, identity: certificates.server, clientAuthentication });
}

/** What such a server sees of a client: the subject, if it shows a certificate. */
async function shown(options: readonly string[]): Promise<string | undefined> {
  const listener = asking();
  const server = `${hostname}:${listener.address.port}`;
  const incoming = listener[Symbol.asyncIterator]();
  const client = verbseal("client", "time", server, ...options);
  const { value } = await incoming.next();
  const connection = await value.handshake();
  const [certificate] = connection.peerCertificates;
  await connection.close();
  await client; // there is no more than the handshake here
  const end = incoming.next();
  listener.close();
  await end;
  await idle();
  return certificate && (await peerIdentity(certificate)).subject;
}

Deno.test("a client shows its certificate to a server that asks for one, and none without one", async () => {
  await withFolder(async (folder) => {
    await writeCertificates(folder, certificates, { overwrite: false });
    const ca = ["--ca", `${folder}/ca.pem`];
    const identity = ["--cert", `${folder}/client.pem`, "--key", `${folder}/client.key`];
    assertEquals(await shown(ca), undefined);
    assertStringIncludes(await shown([...ca, ...identity]) ?? "", "CN=");
  });
});

/** Why a client has no session with openssl's server, which has none to give. */
async function failure(folder: string, server: string[], ...options: string[]): Promise<string> {
  let text = "";
  await serving(folder, ["-alpn", protocol, ...server], async (port) => {
    const command = ["client", "time", `${hostname}:${port}`, "--timeout", "500ms"];
    text = (await verbseal(...command, "--ca", `${folder}/ca.pem`, ...options)).stderr;
  });
  return text;
}

Deno.test("a client does not speak to a server that its authority has revoked", async () => {
  await withFolder(async (folder) => {
    await writeCertificates(folder, certificates, { overwrite: false });
    const crl = ["--crl", `${folder}/ca.crl`];
    await verbseal("certs", "revoke", "--directory", folder);
    assertMatch(await failure(folder, [], ...crl), /exchange was not finished/);
    await verbseal("certs", "revoke", `${folder}/server.pem`, "--directory", folder);
    assertMatch(await failure(folder, [], ...crl), /has been revoked/);
    assertMatch(await failure(folder, []), /exchange was not finished/);
  });
});

Deno.test("a client agrees on no version of TLS and no cipher suite but those it was given", async () => {
  await withFolder(async (folder) => {
    await writeCertificates(folder, certificates, { overwrite: false });
    const older = ["-tls1_2"];
    assertMatch(await failure(folder, older, "--tls-min", "1.2"), /exchange was not finished/);
    assertMatch(await failure(folder, older, "--tls-min", "1.3"), /no version of TLS in common/);
    const server = ["-ciphersuites", "TLS_AES_256_GCM_SHA384", "-tls1_3"];
    const ciphers = (name: string) => ["--tls-ciphers", name];
    const same = await failure(folder, server, ...ciphers("TLS_AES_256_GCM_SHA384"));
    assertMatch(same, /exchange was not finished/);
    const other = await failure(folder, server, ...ciphers("TLS_AES_128_GCM_SHA256"));
    assertMatch(other, /no cipher suite in common/);
  });
});

verbsTest(
  "the authorities of --ca are believed instead of all others, whatever deno would add",
  async () => {
    await using own = await Workspace.create(hostname);
    await using others = await Workspace.create(hostname);
    await using server = await RunningServer.start(others);
    const ask = (ca: string, environment: Record<string, string> = {}) =>
      run(["client", "ping", ...reaching(server), "--ca", ca], { environment });
    const theirs = others.file("certs/ca.pem");
    const refused = await ask(own.file("certs/ca.pem"), { DENO_CERT: theirs });
    assertEquals(refused.status, 3, refused.stderr);
    assertEquals((await ask(theirs)).status, 0);
  },
);

verbsTest("who has SSLKEYLOGFILE set is told what comes of it", async () => {
  await using workspace = await Workspace.create(hostname);
  await using server = await RunningServer.start(workspace);
  const environment = { SSLKEYLOGFILE: workspace.file("keys.log") };
  const ca = ["--ca", workspace.file("certs/ca.pem")];
  const args = ["client", "ping", ...reaching(server), ...ca];
  assertStringIncludes((await run(args, { environment })).stderr, workspace.file("keys.log"));
  assertEquals((await run(args)).stderr.includes("SSLKEYLOGFILE"), false);
});
