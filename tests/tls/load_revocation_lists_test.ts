import { assertEquals, assertRejects } from "@std/assert";
import * as x509 from "../../lib/tls/peculiar_x509.ts";
import { libcrypto } from "../../ffi/libcrypto.ts";
import { TlsError } from "../../lib/errors.ts";
import { loadRevocationLists } from "../../lib/tls/load_revocation_lists.ts";
import { crlPem } from "../../lib/tls/revocation_list.ts";
import { daysFromNow } from "./odd_certificates.ts";
import { openssl, withFolder } from "./openssl.ts";

// Deno's check for leaks wants libraries loaded before the first test.
libcrypto();

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
const keys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);

/** A list that is valid from so many days from now until so many. */
async function list(from: number, until?: number): Promise<x509.X509Crl> {
  return await x509.X509CrlGenerator.create({
    issuer: "CN=Authority",
    thisUpdate: daysFromNow(from),
    ...(until === undefined ? {} : { nextUpdate: daysFromNow(until) }),
    entries: [{ serialNumber: "12" }],
    signingKey: keys.privateKey,
    signingAlgorithm: algorithm,
  });
}

async function load(content: string | ArrayBuffer): Promise<string[]> {
  let lists: string[] = [];
  await withFolder(async (folder) => {
    const path = `${folder}/ca.crl`;
    if (typeof content === "string") await Deno.writeTextFile(path, content);
    else await Deno.writeFile(path, new Uint8Array(content));
    lists = await loadRevocationLists(path);
  });
  return lists;
}

async function refusal(content: string | ArrayBuffer): Promise<string> {
  return (await assertRejects(() => load(content), TlsError, "ca.crl")).code;
}

const good = await list(-1, 1);

Deno.test("every list of a PEM file is loaded, and openssl reads what comes of it", async () => {
  const endless = await list(-1);
  const text = `# of two authorities\n${crlPem(good)}\n${crlPem(endless)}\n`;
  const loaded = await load(text);
  assertEquals(loaded.map(derOf), [good.rawData, endless.rawData]);
  await withFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/crl`, loaded[0]!);
    const { text } = await openssl("crl", "-in", `${folder}/crl`, "-noout", "-issuer");
    assertEquals(text.trim(), "issuer=CN = Authority");
  });
});

function derOf(pem: string): ArrayBuffer {
  return x509.PemConverter.decodeFirst(pem);
}

Deno.test("a list is loaded as authorities publish it, in DER", async () => {
  assertEquals((await load(good.rawData)).map(derOf), [good.rawData]);
});

Deno.test("a list before and after its time is refused, also beside one that is good", async () => {
  assertEquals(await refusal(crlPem(await list(1, 2))), "revocation_list_not_valid");
  const late = crlPem(await list(-2, -1));
  await assertRejects(() => load(`${crlPem(good)}\n${late}`), TlsError, "expired on");
});

Deno.test("what is no list is refused", async () => {
  assertEquals(await refusal(""), "not_a_revocation_list");
  assertEquals(await refusal("-----BEGIN CERTIFICATE-----\nMII=\n"), "not_a_revocation_list");
  assertEquals(await refusal(good.rawData.slice(0, -1)), "not_a_revocation_list");
  const begin = "-----BEGIN X509 CRL-----\n", end = "\n-----END X509 CRL-----\n";
  assertEquals(await refusal(`${begin}not base64!${end}`), "not_a_revocation_list");
  assertEquals(await refusal(`${begin}MIIB${end}`), "not_a_revocation_list");
});

Deno.test("a missing file of revocation lists is named with its option", async () => {
  const error = await assertRejects(() => loadRevocationLists("/nonexistent.crl"), TlsError);
  assertEquals([error.code, error.remedy.includes("--crl")], ["file_missing", true]);
});
