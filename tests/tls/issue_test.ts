import { assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { libcrypto } from "../../ffi/libcrypto.ts";
import { TlsError } from "../../lib/errors.ts";
import { createAuthority, loadAuthority, loadIssued } from "../../lib/tls/authority.ts";
import { identityFiles, writeFiles } from "../../lib/tls/pem_files.ts";
import { type CertificateRequest, issueCertificate } from "../../lib/tls/issue.ts";
import { decodePem, findIssuer } from "../../lib/tls/x509.ts";
import { keyTypes } from "../../lib/tls/key_types.ts";
import type { Identity } from "../../lib/tls/trust.ts";
import { daysFromNow, oddCertificate } from "./odd_certificates.ts";
import { openssl, withFolder } from "./openssl.ts";

// Deno's check for leaks wants libraries loaded before the first test.
libcrypto();

const { authority, identity: ca } = await createAuthority("ecdsa-p256");
const plain: CertificateRequest = {
  commonName: "backup",
  use: "client",
  days: 30,
  keyType: "ecdsa-p256",
};

async function write(folder: string, name: string, identity: Identity): Promise<void> {
  await writeFiles(folder, identityFiles(folder, name, identity), { overwrite: true });
}

/** What openssl says of a certificate of this content. */
async function textOf(folder: string, identity: Identity): Promise<string> {
  await write(folder, "leaf", identity);
  const options = ["-noout", "-text", "-nameopt", "RFC2253"];
  return (await openssl("x509", "-in", `${folder}/leaf.pem`, ...options)).text;
}

for (const keyType of keyTypes) {
  Deno.test(`openssl accepts certificates for and by ${keyType} keys, and the key as theirs`, () =>
    withFolder(async (folder) => {
      const other = await createAuthority(keyType);
      await write(folder, "other", other.identity);
      await write(folder, "ca", ca);
      for (
        const [issuer, signer] of [["ca", authority], ["other", other.authority]] as const
      ) {
        await write(folder, "leaf", await issueCertificate(signer, { ...plain, keyType }));
        const strictly = ["-x509_strict", "-purpose", "sslclient"];
        const trust = ["-CAfile", `${folder}/${issuer}.pem`];
        const { text } = await openssl("verify", ...strictly, ...trust, `${folder}/leaf.pem`);
        assertEquals(text, `${folder}/leaf.pem: OK\n`);
        const inKey = await openssl("pkey", "-in", `${folder}/leaf.key`, "-pubout");
        const inCertificate = await openssl(
          ...["x509", "-in", `${folder}/leaf.pem`, "-noout", "-pubkey"],
        );
        assertEquals(inKey, inCertificate);
      }
    }));
}

Deno.test("a certificate says what was asked for, whatever characters the names have", () =>
  withFolder(async (folder) => {
    const text = await textOf(
      folder,
      await issueCertificate(authority, {
        ...plain,
        use: "server",
        commonName: "storage2",
        organization: `#Storage, "Inc" + Söhne`,
        organizationalUnit: "operations\\",
        hosts: ["storage2.example", "10.0.0.6", "fd00::6"],
        uri: "spiffe://example.com/storage",
        ocspUrl: "http://ocsp.example/",
        crlUrl: "http://crl.example/ca.crl",
      }),
    );
    const subject = String.raw`CN=storage2,OU=operations\\,O=\#Storage\, \"Inc\" \+ S\C3\B6hne`;
    assertStringIncludes(text, `Subject: ${subject}\n`);
    assertStringIncludes(text, "Extended Key Usage: \n                TLS Web Server Auth");
    assertStringIncludes(
      text,
      "DNS:storage2.example, IP Address:10.0.0.6, IP Address:FD00:0:0:0:0:0:0:6, " +
        "URI:spiffe://example.com/storage\n",
    );
    assertStringIncludes(text, "OCSP - URI:http://ocsp.example/");
    assertStringIncludes(text, "URI:http://crl.example/ca.crl");
  }));

Deno.test("a certificate that names a responder comes with its authority's, as a stapler needs it", async () => {
  const ocspUrl = "http://ocsp.example/";
  const { certificate } = await issueCertificate(authority, { ...plain, ocspUrl });
  const [leaf, ...others] = decodePem(certificate, "CERTIFICATE");
  assertEquals(others, [new Uint8Array(authority.certificate.rawData)]);
  assertEquals(findIssuer(leaf!, others), others[0]);
});

Deno.test("a certificate without names has no extension for them", () =>
  withFolder(async (folder) => {
    const text = await textOf(folder, await issueCertificate(authority, plain));
    assertEquals(/Alternative Name|Authority Information|CRL/.test(text), false);
  }));

Deno.test("an authority is loaded from its folder, and signs", () =>
  withFolder(async (folder) => {
    for (const keyType of ["ecdsa-p256", "ed25519"] as const) {
      const made = await createAuthority(keyType);
      await write(folder, "ca", made.identity);
      const loaded = await loadAuthority(folder);
      await write(folder, "leaf", await issueCertificate(loaded, plain));
      const leaf = await loadIssued(loaded, `${folder}/leaf.pem`);
      assertEquals(leaf.subject, "CN=backup");
    }
  }));

Deno.test("an authority by openssl with an old form of key signs too", () =>
  withFolder(async (folder) => {
    const [key, cert] = [`${folder}/ca.key`, `${folder}/ca.pem`];
    for (
      const [kind, form] of [[["ecparam", "-name", "secp384r1", "-genkey", "-noout"], "EC"], [[
        "genrsa",
        "-traditional",
        "2048",
      ], "RSA"]] as const
    ) {
      const [command, ...options] = kind;
      const out = command === "genrsa" ? ["-out", key, ...options] : [...options, "-out", key];
      await openssl(command, ...out);
      assertMatch(await Deno.readTextFile(key), new RegExp(`BEGIN ${form} PRIVATE KEY`));
      await openssl("req", "-x509", "-key", key, "-subj", "/O=Example/CN=Old", "-out", cert);
      await write(folder, "leaf", await issueCertificate(await loadAuthority(folder), plain));
      const { text } = await openssl("verify", "-CAfile", cert, `${folder}/leaf.pem`);
      assertEquals(text, `${folder}/leaf.pem: OK\n`);
    }
  }));

Deno.test("a certificate ends with its authority's at the latest", () =>
  withFolder(async (folder) => {
    const old = { notAfter: daysFromNow(10), authority: true };
    await write(folder, "ca", await oddCertificate(old));
    const loaded = await loadAuthority(folder);
    await write(folder, "leaf", await issueCertificate(loaded, plain));
    const leaf = await loadIssued(loaded, `${folder}/leaf.pem`);
    assertEquals(leaf.notAfter, loaded.certificate.notAfter);
  }));

Deno.test("what is no authority, or none any more, or open to others, does not sign", () =>
  withFolder(async (folder) => {
    const refused = (what: string) => assertRejects(() => loadAuthority(folder), TlsError, what);
    assertStringIncludes((await refused("no file")).remedy, "--directory");
    await write(folder, "ca", await issueCertificate(authority, plain));
    await refused("is no authority's");
    const past = { notBefore: daysFromNow(-3), notAfter: daysFromNow(-2), authority: true };
    await write(folder, "ca", await oddCertificate(past));
    await refused("expired on");
    await write(folder, "ca", ca);
    await Deno.chmod(`${folder}/ca.key`, 0o604);
    await refused("mode 604");
    await write(folder, "ca", { ...ca, key: (await createAuthority("ecdsa-p256")).identity.key });
    await refused("does not belong");
  }));

Deno.test("a certificate of another authority is told from one's own, even by the same name", () =>
  withFolder(async (folder) => {
    const refused = (what: string) =>
      assertRejects(() => loadIssued(authority, `${folder}/leaf.pem`), TlsError, what);
    await write(folder, "leaf", ca);
    await refused("the authority's own");
    const stranger = await createAuthority("ecdsa-p256");
    await write(folder, "leaf", await issueCertificate(stranger.authority, plain));
    await refused("is not signed by");
    const impostor = { ...authority, signingKey: stranger.authority.signingKey };
    await write(folder, "leaf", await issueCertificate(impostor, plain));
    await refused("is not signed by");
  }));
