import { assertEquals, assertNotEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { TlsError } from "../../lib/errors.ts";
import { type Authority, createAuthority } from "../../lib/tls/authority.ts";
import { type CertificateRequest, issueCertificate } from "../../lib/tls/issue.ts";
import { keyTypes } from "../../lib/tls/key_types.ts";
import { identityFiles, writeFiles } from "../../lib/tls/pem_files.ts";
import { renewCertificate } from "../../lib/tls/renew.ts";
import { loadServerIdentity } from "../../lib/tls/trust.ts";
import { openssl, withFolder } from "./openssl.ts";

const { authority, identity: ca } = await createAuthority("ecdsa-p256");
const request: CertificateRequest = {
  commonName: "storage2",
  organization: "Söhne, Inc",
  organizationalUnit: "operations",
  use: "server",
  hosts: ["storage2.example", "fd00::6"],
  uri: "spiffe://example.com/storage",
  ocspUrl: "http://ocsp.example/",
  crlUrl: "http://crl.example/ca.crl",
  days: 5,
  keyType: "ecdsa-p256",
};

/** A folder with `ca` and `leaf`. */
function withLeaf(
  test: (folder: string, leaf: string) => Promise<void>,
  options: Partial<CertificateRequest> & { by?: Authority } = {},
): Promise<void> {
  return withFolder(async (folder) => {
    const leaf = await issueCertificate(options.by ?? authority, { ...request, ...options });
    const files = [...identityFiles(folder, "ca", ca), ...identityFiles(folder, "leaf", leaf)];
    await writeFiles(folder, files, { overwrite: false });
    await test(folder, `${folder}/leaf.pem`);
  });
}

/** What openssl says of a certificate, without what is always new. */
async function lasting(leaf: string): Promise<string> {
  const changing = "no_serial,no_validity,no_pubkey,no_sigdump";
  const { text } = await openssl("x509", "-noout", "-text", "-certopt", changing, "-in", leaf);
  return text.replace(/Subject Key Identifier: \n.*/, "");
}

async function serialOf(leaf: string): Promise<string> {
  return (await openssl("x509", "-noout", "-serial", "-in", leaf)).text;
}

async function publicKeyOf(leaf: string): Promise<string> {
  return (await openssl("x509", "-noout", "-pubkey", "-in", leaf)).text;
}

for (const keyType of keyTypes) {
  Deno.test(`a renewed certificate of an ${keyType} key says the same for a new key, and openssl accepts it`, () =>
    withLeaf(async (folder, leaf) => {
      const [said, serial, key] = [
        await lasting(leaf),
        await serialOf(leaf),
        await publicKeyOf(leaf),
      ];
      assertStringIncludes(said, "URI:spiffe://example.com/storage");
      assertStringIncludes(said, "OCSP - URI:http://ocsp.example/");
      await renewCertificate(authority, leaf, { keepKey: false });
      assertEquals(await lasting(leaf), said);
      assertNotEquals(await serialOf(leaf), serial);
      const newKey = await publicKeyOf(leaf);
      assertNotEquals(newKey, key);
      assertEquals(newKey.length, key.length);
      await loadServerIdentity({ cert: leaf, key: `${folder}/leaf.key` });
      const strictly = ["-x509_strict", "-purpose", "sslserver", "-CAfile", `${folder}/ca.pem`];
      assertEquals((await openssl("verify", ...strictly, leaf)).text, `${leaf}: OK\n`);
    }, { keyType }));
}

Deno.test("a key that is kept stays as it is, and its file belongs to whom it did", () =>
  withLeaf(async (folder, leaf) => {
    const key = `${folder}/leaf.key`;
    // Root's renewals must not lock a server out that runs as another user.
    if (Deno.uid() === 0) await Deno.chown(key, 1234, 5678);
    await Deno.chmod(key, 0o660);
    const { uid, gid } = await Deno.stat(key);
    const [before, text] = [await publicKeyOf(leaf), await Deno.readTextFile(key)];
    await renewCertificate(authority, leaf, { keepKey: true });
    assertEquals([await publicKeyOf(leaf), await Deno.readTextFile(key)], [before, text]);
    const after = await Deno.stat(key);
    assertEquals([after.uid, after.gid, after.mode! & 0o777], [uid, gid, 0o660]);
    assertEquals([...Deno.readDirSync(folder)].length, 4);
  }));

Deno.test("a renewed certificate lasts as long as the old one, or as long as is asked for", () =>
  withLeaf(async (_, leaf) => {
    const day = 86_400_000;
    for (const [days, expected] of [[undefined, 5], [90, 90], [undefined, 90]] as const) {
      const { after } = await renewCertificate(authority, leaf, { days, keepKey: true });
      assertEquals(Math.round((after.notAfter.getTime() - Date.now()) / day), expected);
    }
  }));

Deno.test("what follows the certificate in its file stays, and links stay links", () =>
  withLeaf(async (folder, leaf) => {
    await Deno.writeTextFile(leaf, await Deno.readTextFile(leaf) + ca.certificate);
    const link = `${folder}/current.pem`;
    await Deno.symlink(leaf, link);
    await Deno.symlink(`${folder}/leaf.key`, `${folder}/current.key`);
    await renewCertificate(authority, link, { keepKey: false });
    assertEquals((await Deno.lstat(link)).isSymlink, true);
    assertStringIncludes(await Deno.readTextFile(leaf), ca.certificate.trim());
    await loadServerIdentity({ cert: leaf, key: `${folder}/leaf.key` });
  }));

Deno.test("a certificate of another authority, or whose key is elsewhere, is left as it is", async () => {
  const stranger = await createAuthority("ecdsa-p256");
  await withLeaf(async (folder, leaf) => {
    const before = await Deno.readTextFile(leaf);
    const refused = (what: string) =>
      assertRejects(() => renewCertificate(authority, leaf, { keepKey: false }), TlsError, what);
    await refused("is not signed by");
    await Deno.rename(`${folder}/leaf.key`, `${folder}/other.key`);
    await refused("no file");
    await Deno.copyFile(`${folder}/ca.key`, `${folder}/leaf.key`);
    await refused("does not belong");
    assertEquals(await Deno.readTextFile(leaf), before);
  }, { by: stranger.authority });
});
