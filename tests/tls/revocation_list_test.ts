import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { TlsError } from "../../lib/errors.ts";
import { type Authority, createAuthority } from "../../lib/tls/authority.ts";
import { identityFiles, writeFiles } from "../../lib/tls/pem_files.ts";
import { issueCertificate } from "../../lib/tls/issue.ts";
import { keyTypes } from "../../lib/tls/key_types.ts";
import { extendRevocationList, type Revocation } from "../../lib/tls/revocation_list.ts";
import { openssl, withFolder } from "./openssl.ts";

/** A folder with an authority and two certificates of it, `first` and `second`. */
function withAuthority(
  test: (folder: string, authority: Authority) => Promise<void>,
  keyType: typeof keyTypes[number] = "ecdsa-p256",
): Promise<void> {
  return withFolder(async (folder) => {
    const { authority, identity } = await createAuthority(keyType);
    const identities = { ca: identity, first: await issue(), second: await issue() };
    const files = Object.entries(identities).flatMap(([name, each]) =>
      identityFiles(folder, name, each)
    );
    await writeFiles(folder, files, { overwrite: false });
    await test(folder, authority);

    function issue() {
      const request = { use: "client", days: 1, keyType: "ecdsa-p256" } as const;
      return issueCertificate(authority, { ...request, commonName: "leaf" });
    }
  });
}

async function serialOf(folder: string, name: string): Promise<string> {
  const { text } = await openssl("x509", "-noout", "-serial", "-in", `${folder}/${name}.pem`);
  return text.trim().replace("serial=", "").toLowerCase();
}

/** What openssl says of a certificate when it looks at the list. */
async function verify(folder: string, name: string): Promise<string> {
  const files = ["-CAfile", `${folder}/ca.pem`, "-CRLfile", `${folder}/ca.crl`];
  const checks = ["-x509_strict", "-crl_check"];
  const { text } = await openssl("verify", ...checks, ...files, `${folder}/${name}.pem`);
  return /: (OK)\n|lookup: (.*)\n/.exec(text)?.slice(1).join("") ?? text;
}

async function textOf(folder: string): Promise<string> {
  return (await openssl("crl", "-noout", "-text", "-in", `${folder}/ca.crl`)).text;
}

function extend(
  authority: Authority,
  folder: string,
  serialNumbers: string[] = [],
  reason: Revocation["reason"] = "unspecified",
) {
  const revocations = serialNumbers.map((serialNumber) => ({ serialNumber, reason }));
  return extendRevocationList(authority, folder, revocations, {});
}

for (const keyType of keyTypes) {
  Deno.test(`openssl refuses what a list by an ${keyType} key names, and nothing else`, () =>
    withAuthority(async (folder, authority) => {
      await extend(authority, folder);
      assertEquals(await verify(folder, "first"), "OK");
      await extend(authority, folder, [await serialOf(folder, "first")], "keyCompromise");
      assertEquals(await verify(folder, "first"), "certificate revoked");
      assertEquals(await verify(folder, "second"), "OK");
      assertStringIncludes(await textOf(folder), "Key Compromise");
    }, keyType));
}

Deno.test("a list keeps what it has, and each has a greater number than the one before", () =>
  withAuthority(async (folder, authority) => {
    const first = await serialOf(folder, "first");
    assertEquals((await extend(authority, folder, [first], "superseded")).added, [first]);
    assertEquals((await extend(authority, folder, [first], "keyCompromise")).added, []);
    const { added } = await extend(authority, folder, ["ff", "ff"]);
    assertEquals(added, ["ff"]);
    const text = await textOf(folder);
    assertStringIncludes(text, "CRL Number: \n                3\n");
    assertEquals(text.match(/Serial Number|Superseded|Key Compromise/g), [
      ...["Serial Number", "Superseded", "Serial Number"],
    ]);
  }));

Deno.test("an entry without a reason has no empty sequence of extensions", () =>
  withAuthority(async (folder, authority) => {
    await extend(authority, folder, ["0a"]);
    const { text } = await openssl("asn1parse", "-in", `${folder}/ca.crl`);
    assertEquals(/l= +0 cons/.test(text), false);
  }));

Deno.test("two that revoke at once lose nothing", () =>
  withAuthority(async (folder, authority) => {
    const serials = ["01", "02", "03", "04", "05"];
    await Promise.all(serials.map((serial) => extend(authority, folder, [serial])));
    const { list } = await extend(authority, folder);
    assertEquals(list.entries.map(({ serialNumber }) => serialNumber).sort(), serials);
  }));

Deno.test("a list that openssl has made is continued", () =>
  withAuthority(async (folder, authority) => {
    const first = await serialOf(folder, "first");
    const row = ["R", "361231000000Z", "260101000000Z", first.toUpperCase(), "unknown", "/CN=x"];
    await Deno.writeTextFile(`${folder}/index.txt`, row.join("\t") + "\n");
    await Deno.writeTextFile(`${folder}/crlnumber`, "FFFFFFFFFFFFFFFFFF\n");
    await Deno.writeTextFile(
      `${folder}/ca.cnf`,
      `[ca]\ndefault_ca=own\n[own]\ndatabase=${folder}/index.txt\ndefault_md=sha256\n` +
        `crlnumber=${folder}/crlnumber\ndefault_crl_days=1\ncrl_extensions=none\n[none]\n`,
    );
    const signer = ["-cert", `${folder}/ca.pem`, "-keyfile", `${folder}/ca.key`];
    const out = ["-config", `${folder}/ca.cnf`, "-out", `${folder}/ca.crl`];
    const made = await openssl("ca", "-gencrl", ...signer, ...out);
    assertEquals(made.success, true, made.text);
    await extend(authority, folder);
    assertEquals(await verify(folder, "first"), "certificate revoked");
    const text = await textOf(folder);
    assertStringIncludes(text, `CRL Number: \n                ${2n ** 72n}\n`);
    assertStringIncludes(text, "Revocation Date: Jan  1 00:00:00 2026 GMT");
  }));

Deno.test("a list of another authority, or none at all, is not overwritten", () =>
  withAuthority(async (folder, authority) => {
    const path = `${folder}/ca.crl`;
    const stranger = await createAuthority("ecdsa-p256");
    await extend(stranger.authority, folder);
    const before = await Deno.readTextFile(path);
    await assertRejects(() => extend(authority, folder), TlsError, "is not signed by");
    assertEquals(await Deno.readTextFile(path), before);
    const middle = before.length / 2;
    const damaged = before.slice(0, middle) + "AAAA" + before.slice(middle);
    for (const text of ["", "hello", before.replaceAll("X509 CRL", "CERTIFICATE"), damaged]) {
      await Deno.writeTextFile(path, text);
      await assertRejects(() => extend(authority, folder), TlsError);
      assertEquals(await Deno.readTextFile(path), text);
    }
  }));
