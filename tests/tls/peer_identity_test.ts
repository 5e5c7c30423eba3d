import { assert, assertEquals, assertRejects } from "@std/assert";
import { AsnConvert } from "@peculiar/asn1-schema";
import { GeneralName, OtherName, SubjectAlternativeName } from "@peculiar/asn1-x509";
import type { LogRecord } from "@logtape/logtape";
import fc from "fast-check";
import { X509Certificate } from "node:crypto";
import { TlsError } from "../../lib/errors.ts";
import { jsonLine, textLine } from "../../lib/telemetry/log.ts";
import { identityFields, peerIdentity } from "../../lib/tls/peer_identity.ts";
import { clientCertificate } from "./client_certificate.ts";

Deno.test("an identity has the subject, its parts and the alternative names by kind", async () => {
  const der = await clientCertificate({
    subject: [["C", "CH"], ["O", "Example, Inc."], ["OU", "storage"], ["OU", "backup"], [
      "CN",
      "node-1",
    ]],
    names: [
      { type: "dns", value: "node-1.example.org" },
      { type: "url", value: "spiffe://example.org/backup/1" },
      { type: "ip", value: "10.0.0.1" },
      { type: "ip", value: "fd00::1" },
      { type: "email", value: "ops@example.org" },
    ],
    serial: "00c0ffee",
  });
  const { subjectName, ...identity } = await peerIdentity(der);
  const openssl = new X509Certificate(der);
  const subject = "CN=node-1,OU=backup,OU=storage,O=Example\\, Inc.,C=CH";
  assertEquals(identity, {
    subject,
    issuer: subject,
    commonNames: ["node-1"],
    organizations: ["Example, Inc."],
    organizationalUnits: ["backup", "storage"],
    alternativeNames: {
      dns: ["node-1.example.org"],
      uri: ["spiffe://example.org/backup/1"],
      ip: ["10.0.0.1", "fd00::1"],
      email: ["ops@example.org"],
    },
    serial: openssl.serialNumber.toLowerCase(),
    fingerprint: openssl.fingerprint256.replaceAll(":", "").toLowerCase(),
  });
  assertEquals(subjectName[0], [{ type: "CN", value: "node-1" }]);
});

Deno.test("the subject reads as OpenSSL prints it", async () => {
  const values = [
    "plain",
    "a,b",
    "a+b=c",
    ' "quoted" ',
    "#hash",
    "back\\slash",
    "<;>",
    "Zürich 🦀",
  ];
  const types = ["CN", "O", "OU", "L", "ST", "C", "DC", "0.9.2342.19200300.100.1.1"];
  const der = await clientCertificate({
    subject: types.map((type, index) => [type, values[index]!]),
  });
  const child = new Deno.Command("openssl", {
    args: ["x509", "-inform", "der", "-noout", "-subject", "-nameopt", "RFC2253,-esc_msb"],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(der);
  await writer.close();
  const printed = new TextDecoder().decode((await child.output()).stdout).trimEnd();
  assertEquals(`subject=${(await peerIdentity(der)).subject}`, printed);
});

Deno.test("whatever stands in a value, it makes no other attribute and no other name", async () => {
  const parts = fc.constantFrom("x", ",OU=admin", "+O=admin", "/CN=admin", "\0", '"', "\\", "ü");
  const value = fc.oneof(
    fc.array(parts, { minLength: 1 }).map((all) => all.join("")),
    fc.string({ minLength: 1, unit: "binary" }),
  );
  const label = fc.string({ minLength: 1 });
  const property = fc.asyncProperty(value, label, async (text, name) => {
    const identity = await peerIdentity(
      await clientCertificate({
        subject: [["CN", text]],
        names: [{ type: "dns", value: `${name}, URI:spiffe://example.org/admin` }],
      }),
    );
    assertEquals(identity.commonNames, [text]);
    assertEquals([identity.organizations, identity.organizationalUnits], [[], []]);
    assertEquals(identity.alternativeNames.uri, []);
    assertEquals(identity.subjectName, [[{ type: "CN", value: text }]]);
  });
  await fc.assert(property, { numRuns: 200 });
});

Deno.test("two subjects never have one text", async () => {
  const value = fc.array(fc.constantFrom("a", ",", "+", "=", "\\", "#", " ", "CN=", "2C"), {
    minLength: 1,
    maxLength: 4,
  }).map((all) => all.join(""));
  const subject = fc.array(value, { minLength: 1, maxLength: 3 });
  const text = async (values: string[]) => {
    const der = await clientCertificate({ subject: values.map((value) => ["CN", value]) });
    return (await peerIdentity(der)).subject;
  };
  await fc.assert(
    fc.asyncProperty(subject, subject, async (one, other) => {
      const same = JSON.stringify(one) === JSON.stringify(other);
      assertEquals(await text(one) === await text(other), same);
    }),
    { numRuns: 200 },
  );
});

Deno.test("kinds of alternative names that no policy knows are passed by", async () => {
  const names = new SubjectAlternativeName([
    new GeneralName({
      otherName: new OtherName({ typeId: "1.3.6.1.5.2.2", value: new Uint8Array([5, 0]).buffer }),
    }),
    new GeneralName({ dNSName: "node-1" }),
  ]);
  const { alternativeNames } = await peerIdentity(
    await clientCertificate({ rawNames: AsnConvert.serialize(names) }),
  );
  assertEquals(alternativeNames, { dns: ["node-1"], uri: [], ip: [], email: [] });
});

Deno.test("what is no certificate is refused by name", async () => {
  for (const der of [new Uint8Array(0), new TextEncoder().encode("no certificate")]) {
    const { code } = await assertRejects(() => peerIdentity(der), TlsError);
    assertEquals(code, "peer_certificate");
  }
});

Deno.test("a log shows an identity on one line that text of a certificate cannot forge", async () => {
  const forged = 'x\n2026-01-31T12:00:00.000Z info "\u202e subject=CN=admin';
  const der = await clientCertificate({
    subject: [["CN", forged]],
    names: [{ type: "dns", value: "a\r\nb" }],
  });
  const record: LogRecord = {
    category: ["verbseal", "session"],
    level: "info",
    message: ["session established"],
    rawMessage: "session established",
    timestamp: 0,
    properties: identityFields(await peerIdentity(der)),
  };
  for (const line of [textLine(record), jsonLine(record)]) {
    assertEquals(line.match(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u), null, line);
  }
  const fields = JSON.parse(jsonLine(record));
  assertEquals([fields.subject.split("subject=").length, fields.sans], [2, ["dns:a\r\nb"]]);
  assert(!/ subject=CN=admin/.test(textLine(record).replace(/"(\\.|[^"\\])*"/g, "")));
});

Deno.test("without alternative names the log has no field for them", async () => {
  const fields = identityFields(await peerIdentity(await clientCertificate()));
  assertEquals(Object.keys(fields), ["subject", "serial", "issuer", "fingerprint"]);
});
