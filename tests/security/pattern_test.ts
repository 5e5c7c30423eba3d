import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { UsageError } from "../../lib/errors.ts";
import { namePattern } from "../../lib/security/name_pattern.ts";
import {
  dnsPattern,
  emailPattern,
  fingerprintPattern,
  textPattern,
  uriPattern,
} from "../../lib/security/pattern.ts";
import { peerIdentity } from "../../lib/tls/peer_identity.ts";
import { clientCertificate } from "../tls/client_certificate.ts";

/** Short texts of few characters, among them all that mean something somewhere. */
const some = fc.array(fc.constantFrom("a", "b", "*", "/", ".", "@", ",", "\\", "="), {
  maxLength: 8,
}).map((all) => all.join(""));

function refused(compile: (pattern: string) => unknown, ...patterns: string[]): void {
  for (const pattern of patterns) {
    assertEquals(assertThrows(() => compile(pattern), UsageError).code, "bad_pattern", pattern);
  }
}

/** Which of the texts a pattern matches. */
function chosen(matches: (text: string) => boolean, ...texts: string[]): string[] {
  return texts.filter(matches);
}

Deno.test("a star stands for any characters, and nothing else stands for another", () => {
  const word = fc.string({ unit: fc.constantFrom("a", "b", "*"), maxLength: 6 });
  const property = fc.property(word.filter((text) => !text.includes("**")), word, (one, text) => {
    const reference = new RegExp(`^${one.replaceAll("*", "[^]*")}$`);
    assertEquals(textPattern(one)(text), reference.test(text));
  });
  fc.assert(property, { numRuns: 5000 });
  assert(textPattern("a.c")("a.c") && !textPattern("a.c")("abc"));
});

Deno.test("in a uri a star keeps to its segment, and two are the rest", () => {
  const one = uriPattern("spiffe://example.org/backup/*");
  const inside = "spiffe://example.org/backup/1";
  const outside = [
    "spiffe://example.org/backup/1/2",
    "spiffe://example.org/backup/",
    "spiffe://example.org/backup",
    "spiffe://example.org.evil/backup/1",
    "spiffe://example.org/backup/..",
  ];
  assertEquals(chosen(one, inside, ...outside), [inside]);
  const rest = uriPattern("spiffe://example.org/backup/**");
  assertEquals(chosen(rest, inside, ...outside), [inside, outside[0]]);
  assertEquals(rest("spiffe://example.org/backup/a/../../admin"), false);
  assertEquals(uriPattern("spiffe://*/db-*")("spiffe://a/db-1"), true);
  refused(uriPattern, "spiffe://a/**/b", "spiffe://a/b**", "**", "spiffe://a/**/**");
});

Deno.test("a pattern without ** matches no uri with other segments than its own", () => {
  fc.assert(fc.property(some.filter((text) => !text.includes("**")), some, (pattern, uri) => {
    if (!uriPattern(pattern)(uri)) return;
    assertEquals(uri.split("/").length, pattern.split("/").length);
  }));
});

Deno.test("host names have no case, and a star keeps to its label", () => {
  const matches = dnsPattern("*.Example.org");
  const names = ["a.example.ORG", "a.b.example.org", "example.org", ".example.org", "a.example.or"];
  assertEquals(chosen(matches, ...names), ["a.example.ORG"]);
  refused(dnsPattern, "**.example.org");
});

Deno.test("the domain of an address has no case, and a star keeps to its side of the @", () => {
  const matches = emailPattern("ops-*@Example.org");
  assertEquals(
    chosen(matches, "ops-1@example.ORG", "ops-1@evil@example.org", "Ops-1@example.org"),
    ["ops-1@example.ORG"],
  );
});

Deno.test("a fingerprint is 64 hexadecimal digits, however a tool writes them", () => {
  const digits = "00112233445566778899aabbccddeeff".repeat(2);
  const colons = digits.toUpperCase().match(/../g)!.join(":");
  for (const pattern of [digits, colons]) assert(fingerprintPattern(pattern)(digits));
  assertEquals(fingerprintPattern(digits)(digits.replace("0", "1")), false);
  refused(fingerprintPattern, "", "*", digits.slice(1), `${digits}0`, `sha1:${digits}`);
});

Deno.test("a name is matched attribute by attribute", async () => {
  const { subjectName } = await peerIdentity(
    await clientCertificate({
      subject: [["C", "CH"], ["O", "Example, Inc."], ["OU", "storage"], ["CN", "node-1"]],
    }),
  );
  const matching = [
    "*",
    "CN=node-1,OU=storage,O=Example\\, Inc.,C=CH",
    "cn=node-*, ou=*, o=Example\\2C Inc., 2.5.4.6=CH",
    "*,O=Example*,C=CH",
    "CN=node-1,*",
    "*,OU=storage,*",
    "*,C=CH,*,*",
  ];
  assertEquals(matching.filter((pattern) => namePattern(pattern)(subjectName)), matching);
  const others = [
    "CN=node-1",
    "CN=*,C=CH",
    "*,OU=storage",
    "CN=node-\\*,*",
    "OU=storage,*",
    "*,CN=admin,*",
    "CN=node-1+OU=storage,*",
    "*,UID=*,*",
  ];
  assertEquals(others.filter((pattern) => namePattern(pattern)(subjectName)), []);
});

Deno.test("what is no name is refused", () => {
  refused(
    namePattern,
    ...[
      "",
      "node-1",
      "CN",
      "CN=a,",
      ",CN=a",
      "CN=a;O=b",
      'CN="a"',
      "CN=a,,O=b",
      "*+CN=a",
      "CN=a+*",
    ],
    ...["XX=a", "CN=a ,O=b", "CN=a\\", "**", "*CN=a"],
  );
});

Deno.test("a subject, copied as a pattern, matches itself and no other", async () => {
  const value = fc.array(fc.constantFrom("a", ",", "+", "=", "\\", "#", " ", "\n", ",OU=admin"), {
    minLength: 1,
    maxLength: 4,
  }).map((all) => all.join(""));
  await fc.assert(
    fc.asyncProperty(value, value, async (one, other) => {
      const identity = await peerIdentity(await clientCertificate({ subject: [["CN", one]] }));
      const matches = namePattern(identity.subject);
      assert(matches(identity.subjectName));
      assertEquals(matches([[{ type: "CN", value: other }]]), one === other);
    }),
    { numRuns: 100 },
  );
});

Deno.test("no common name passes for an organizational unit", () => {
  const value = fc.oneof(fc.string(), fc.string().map((text) => `${text},OU=admin`));
  const matchers = ["*,OU=admin,*", "CN=*,OU=admin", "OU=*", "*,OU=*"].map(namePattern);
  fc.assert(fc.property(value, (text) => {
    assertEquals(matchers.some((matches) => matches([[{ type: "CN", value: text }]])), false);
  }));
});
