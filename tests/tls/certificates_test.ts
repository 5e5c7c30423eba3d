import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { VerbsealError } from "../../lib/errors.ts";
import { writeCertificates } from "../../lib/tls/certificate_files.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import { openssl, withFolder } from "./openssl.ts";

const hosts = ["localhost", "127.0.0.1", "::1", "storage.example"];
const certificates = await createCertificates({ hosts, days: 30 });
const files = [
  "ca.crl",
  "ca.key",
  "ca.pem",
  "client.key",
  "client.pem",
  "server.key",
  "server.pem",
];

function verify(folder: string, purpose: string, name: string) {
  const ca = `${folder}/ca.pem`;
  return openssl("verify", "-x509_strict", "-purpose", purpose, "-CAfile", ca, `${folder}/${name}`);
}

Deno.test("openssl accepts each leaf for its own purpose, strictly, and for no other", () =>
  withFolder(async (folder) => {
    await writeCertificates(folder, certificates, { overwrite: false });
    assertEquals((await verify(folder, "sslserver", "server.pem")).text.trim().slice(-2), "OK");
    assertEquals((await verify(folder, "sslclient", "client.pem")).text.trim().slice(-2), "OK");
    assertEquals((await verify(folder, "sslclient", "server.pem")).success, false);
    assertEquals((await verify(folder, "sslserver", "client.pem")).success, false);
  }));

Deno.test("the server's certificate names each host, by name or by address", () =>
  withFolder(async (folder) => {
    await writeCertificates(folder, certificates, { overwrite: false });
    for (
      const [option, host] of [["host", "storage.example"], ["ip", "127.0.0.1"], ["ip", "::1"]]
    ) {
      const check = [`-check${option}`, host!];
      const { text } = await openssl("x509", "-noout", "-in", `${folder}/server.pem`, ...check);
      assertMatch(text, /does match certificate/);
    }
    const { text } = await openssl(
      "x509",
      "-noout",
      "-in",
      `${folder}/server.pem`,
      "-checkhost",
      "other.example",
    );
    assertMatch(text, /does NOT match/);
  }));

Deno.test("serial numbers are positive, 128 bits long and never the same", () =>
  withFolder(async (folder) => {
    await writeCertificates(folder, certificates, { overwrite: false });
    const serials = new Set<string>();
    for (const name of ["ca", "server", "client"]) {
      const { text } = await openssl("x509", "-noout", "-serial", "-in", `${folder}/${name}.pem`);
      assertMatch(text, /^serial=[4-7][0-9A-F]{31}\n$/);
      serials.add(text);
    }
    assertEquals(serials.size, 3);
  }));

Deno.test("keys are for their owner alone, and nothing else is left behind", () =>
  withFolder(async (folder) => {
    await writeCertificates(folder, certificates, { overwrite: false });
    const modes: Record<string, string> = {};
    for await (const { name } of Deno.readDir(folder)) {
      const { mode } = await Deno.stat(`${folder}/${name}`);
      modes[name] = (mode! & 0o777).toString(8);
    }
    const expected = files.map((name) => [name, name.endsWith(".key") ? "600" : "644"]);
    assertEquals(modes, Object.fromEntries(expected));
  }));

Deno.test("no file is replaced unless that is asked for", () =>
  withFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/client.key`, "precious");
    const write = (overwrite: boolean) => writeCertificates(folder, certificates, { overwrite });
    await assertRejects(() => write(false), VerbsealError, "client.key exists already");
    assertEquals(await Deno.readTextFile(`${folder}/client.key`), "precious");
    assertEquals([...Deno.readDirSync(folder)].length, 1);
    await write(true);
    assertEquals(await Deno.readTextFile(`${folder}/client.key`), certificates.client.key);
  }));
