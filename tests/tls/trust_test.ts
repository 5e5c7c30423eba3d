import { assertEquals, assertRejects } from "@std/assert";
import { TlsError } from "../../lib/errors.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import { loadServerIdentity, loadTrust } from "../../lib/tls/trust.ts";
import { daysFromNow, oddCertificate } from "./odd_certificates.ts";

const good = await createCertificates({ hosts: ["localhost"], days: 30 });

/** Loads an identity from files with these contents, the key with this mode. */
async function load(
  certificate: string | undefined,
  key: string | undefined,
  mode = 0o600,
): Promise<unknown> {
  const folder = await Deno.makeTempDir();
  const files = { cert: `${folder}/server.pem`, key: `${folder}/server.key` };
  try {
    if (certificate !== undefined) await Deno.writeTextFile(files.cert, certificate);
    if (key !== undefined) await Deno.writeTextFile(files.key, key, { mode });
    return await loadServerIdentity(files);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Loads trust from a file with this content. */
async function trust(content: string) {
  const file = await Deno.makeTempFile();
  try {
    await Deno.writeTextFile(file, content);
    return await loadTrust(file);
  } finally {
    await Deno.remove(file);
  }
}

const { certificate, key } = good.server;

Deno.test("a certificate and its key are loaded as they are", async () => {
  assertEquals(await load(certificate, key), { certificate, key });
});

Deno.test("a missing file is named, and so is the way to make one", async () => {
  await assertRejects(() => load(undefined, key), TlsError, "server.pem");
  const error = await assertRejects(() => load(certificate, undefined), TlsError, "server.key");
  assertEquals(error.code, "file_missing");
  assertEquals(error.exitCode, 3);
  assertEquals(error.remedy.includes("verbseal certs init"), true);
});

Deno.test("a file that is not PEM is refused", async () => {
  await assertRejects(() => load("hello", key), TlsError, "no certificate in PEM form");
  await assertRejects(() => load(key, key), TlsError, "no certificate in PEM form");
  const damaged = certificate.replace(/^MII.{20}/m, "MIIB");
  await assertRejects(() => load(damaged, key), TlsError, "no certificate in PEM form");
  await assertRejects(() => load(certificate, certificate), TlsError, "no private key in PEM form");
});

Deno.test("a key of another certificate is refused", async () => {
  await assertRejects(() => load(certificate, good.client.key), TlsError, "does not belong");
});

Deno.test("a key that every user can read is refused", async () => {
  const error = await assertRejects(() => load(certificate, key, 0o644), TlsError, "mode 644");
  assertEquals(error.remedy.startsWith("Close it with chmod 600"), true);
});

Deno.test("a certificate before and after its time is refused", async () => {
  const early = await oddCertificate({ notBefore: daysFromNow(1), notAfter: daysFromNow(2) });
  await assertRejects(() => load(early.certificate, early.key), TlsError, "is not valid before");
  const late = await oddCertificate({ notBefore: daysFromNow(-2), notAfter: daysFromNow(-1) });
  await assertRejects(() => load(late.certificate, late.key), TlsError, "expired on");
});

Deno.test("an authority's certificate is refused as the server's own", async () => {
  const error = await assertRejects(() => load(good.ca.certificate, good.ca.key), TlsError);
  assertEquals(error.code, "authority_as_leaf");
});

Deno.test("a key with a passphrase is refused, with the command that unlocks it", async () => {
  const locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMII=\n-----END ENCRYPTED PRIVATE KEY-----";
  const error = await assertRejects(() => load(certificate, locked), TlsError, "passphrase");
  assertEquals(error.remedy.includes("openssl pkey"), true);
});

Deno.test("trust is in every authority of the file, and in the system's without one", async () => {
  const other = await createCertificates({ hosts: [], days: 1 });
  const both = await trust(good.ca.certificate + other.ca.certificate);
  assertEquals(both.authorities.length, 2);
  assertEquals(await loadTrust(), { authorities: [] });
});

Deno.test("a file of expired authorities is refused, one with a valid one among them is not", async () => {
  const old = await oddCertificate({
    notBefore: daysFromNow(-2),
    notAfter: daysFromNow(-1),
    authority: true,
  });
  await assertRejects(() => trust(old.certificate), TlsError, "expired on");
  assertEquals((await trust(old.certificate + good.ca.certificate)).authorities.length, 2);
});

Deno.test("a missing file of authorities is named with its option", async () => {
  const error = await assertRejects(() => loadTrust("/nonexistent/ca.pem"), TlsError);
  assertEquals(error.remedy.includes("--ca"), true);
});
