import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { createAuthority } from "../../lib/tls/authority.ts";
import { crlPem, signRevocationList } from "../../lib/tls/revocation_list.ts";
import { daysFromNow, oddCertificate } from "../tls/odd_certificates.ts";
import { openssl, withFolder } from "../tls/openssl.ts";
import { verbseal } from "./run.ts";

/** A folder with what `certs init` makes, shown by a function. */
function withCertificates(
  test: (folder: string, show: (...names: string[]) => Promise<string>) => Promise<void>,
): Promise<void> {
  return withFolder(async (folder) => {
    await verbseal("certs", "init", "--directory", folder, "--days", "20");
    await test(folder, async (...args) => {
      const files = args.map((arg) => arg.startsWith("--") ? arg : `${folder}/${arg}`);
      const { stdout, stderr } = await verbseal("certs", "show", ...files);
      return stdout + stderr;
    });
  });
}

async function writeOdd(
  path: string,
  options: { notBefore?: Date; notAfter?: Date },
): Promise<void> {
  await Deno.writeTextFile(path, (await oddCertificate(options)).certificate);
}

Deno.test("certs show tells what openssl tells", () =>
  withCertificates(async (folder, show) => {
    const file = `${folder}/server.pem`;
    const asked = ["-serial", "-fingerprint", "-sha256", "-enddate"];
    const { text } = await openssl("x509", "-noout", "-in", file, ...asked);
    const [, serial, fingerprint, end] = /^serial=(.*)\nsha256 Fingerprint=(.*)\nnotAfter=(.*)\n$/i
      .exec(text)!;
    const { issuer, pin, ...shown } = JSON.parse(await show("server.pem", "--json"));
    assertEquals({ ...shown, names: shown.names.slice(0, 3), notBefore: "" }, {
      kind: "certificate",
      file,
      notBefore: "",
      notAfter: new Date(end!).toISOString(),
      subject: "CN=Verbseal server",
      names: ["DNS:localhost", "IP:127.0.0.1", "IP:::1"],
      key: "ECDSA P-256",
      serialNumber: serial!.toLowerCase(),
      use: ["server"],
      fingerprint: fingerprint!.replaceAll(":", "").toLowerCase(),
      daysLeft: 19,
    });
    assertMatch(issuer, /^CN=Verbseal development CA [0-9a-f]{8}$/);
    assertEquals((await verbseal("certs", "pin", file)).stdout.trim(), pin);
  }));

Deno.test("certs show begins with what expires soonest, and warns", () =>
  withCertificates(async (folder, show) => {
    await writeOdd(`${folder}/late.pem`, { notBefore: daysFromNow(-9), notAfter: daysFromNow(-3) });
    await writeOdd(`${folder}/soon.pem`, { notAfter: daysFromNow(13.5) });
    await writeOdd(`${folder}/fair.pem`, { notAfter: daysFromNow(14.5) });
    await writeOdd(`${folder}/early.pem`, {
      notBefore: daysFromNow(40),
      notAfter: daysFromNow(50),
    });
    const files = [
      "early.pem",
      "ca.pem",
      "ca.crl",
      "server.pem",
      "fair.pem",
      "soon.pem",
      "late.pem",
    ];
    const text = await show(...files);
    const warnings = text.match(
      /^file .*|EXPIRED|ONLY 13 DAYS LEFT|\b14 days left|NOT VALID YET/gm,
    );
    assertEquals(warnings?.map((each) => each.replace(/^.*\//, "")), [
      ...["EXPIRED", "late.pem", "ONLY 13 DAYS LEFT", "soon.pem", "14 days left", "fair.pem"],
      ...["server.pem", "ca.crl", "NOT VALID YET", "early.pem", "ca.pem"],
    ]);
  }));

Deno.test("certs show counts what a list revokes, and says when it is overdue", () =>
  withCertificates(async (folder, show) => {
    await verbseal("certs", "revoke", "--directory", folder, `${folder}/client.pem`);
    assertStringIncludes(await show("ca.crl"), "number 2, 1 revoked");
    assertStringIncludes(await show("ca.crl"), "29 days left");
    const { authority } = await createAuthority("ecdsa-p256");
    const old = await signRevocationList(authority, { number: 7n, entries: [], days: -1 });
    await Deno.writeTextFile(`${folder}/old.crl`, crlPem(old));
    assertMatch(await show("old.crl"), /next update .*, OVERDUE\n[^]*number 7, 0 revoked/);
  }));

Deno.test("certs show has no part in what a name does to a terminal", () =>
  withFolder(async (folder) => {
    const [key, file] = [`${folder}/x.key`, `${folder}/x.pem`];
    const subject = "/CN=a\x1b[2Jb";
    const request = ["-x509", "-newkey", "ed25519", "-nodes", "-utf8", "-subj", subject];
    await openssl("req", ...request, "-keyout", key, "-out", file);
    const { stdout } = await verbseal("certs", "show", file);
    assertStringIncludes(stdout, "subject      CN=a\\u001b[2Jb\n");
  }));

Deno.test("certs show names the file that it cannot show", () =>
  withCertificates(async (folder, show) => {
    assertStringIncludes(await show("ca.pem", "ca.key"), "no certificate and no list");
    const damaged = (await Deno.readTextFile(`${folder}/ca.pem`)).replace(/^MII/m, "MIIA");
    await Deno.writeTextFile(`${folder}/ca.pem`, damaged);
    assertStringIncludes(await show("ca.pem"), "ca.pem cannot be understood");
  }));
