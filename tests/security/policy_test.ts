import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import { UsageError } from "../../lib/errors.ts";
import { identityName, type Policy, ruleFor } from "../../lib/security/policy.ts";
import { loadPolicy } from "../../lib/security/policy_file.ts";
import { parsePolicy } from "../../lib/security/policy_parser.ts";
import { peerIdentity } from "../../lib/tls/peer_identity.ts";
import { clientCertificate, type ClientCertificateOptions } from "../tls/client_certificate.ts";

const example = `
rules:
  - name: administrators
    match: { organization: Example, organizational-unit: [admin, operations] }
    allow: { services: [messages, memory, files], access: [read, write] }
  - match:
      uri: spiffe://example.org/backup/*
    allow:
      services: files
      access: write
      root: backup
      sessions: 2
      registered-memory: 8MiB
  - match: { subject: "*,OU=lost" }
    allow: { services: [] }
  - match: { anonymous: true }
    allow: { services: messages }
`;

async function identity(options: ClientCertificateOptions) {
  return await peerIdentity(await clientCertificate(options));
}

/** The error of a policy that is refused: its line and what it says. */
function refusal(text: string): string {
  const { code, message } = assertThrows(() => parsePolicy(text, "p.yaml"), UsageError);
  assertEquals(code, "bad_policy");
  assertMatch(message, /^p\.yaml:\d+: /);
  return message.slice("p.yaml:".length);
}

Deno.test("the first rule that matches decides", async () => {
  const policy = parsePolicy(example, "p.yaml");
  const decided = (options: ClientCertificateOptions) =>
    identity(options).then((who) => ruleFor(policy, who)?.name);
  const url = { type: "url", value: "spiffe://example.org/backup/1" } as const;
  const operator = [["O", "Example"], ["OU", "operations"]] as const;
  assertEquals(await decided({ subject: operator, names: [url] }), "administrators");
  assertEquals(await decided({ subject: [["OU", "operations"]], names: [url] }), "line 6");
  assertEquals(await decided({ subject: [["CN", "a"], ["OU", "lost"]] }), undefined);
  assertEquals(await decided({ subject: [["OU", "lost"]] }), "line 14");
  assertEquals(ruleFor(policy, undefined)?.name, "line 16");
});

Deno.test("a SPIFFE ID beside another URI identifies nobody", async () => {
  const text = (uri: string) => `rules: [{ match: { uri: "${uri}" }, allow: { services: files } }]`;
  const [id, other] = ["spiffe://example.org/backup", "https://example.org/backup"];
  const matched = async (pattern: string, ...uris: string[]) => {
    const names = uris.map((value) => ({ type: "url", value }) as const);
    return ruleFor(parsePolicy(text(pattern), "p.yaml"), await identity({ names })) !==
      undefined;
  };
  assertEquals(await matched(id, id), true);
  assertEquals(await matched(id, id, other), false);
  assertEquals(await matched(id, other, "SPIFFE://example.org/backup", id), false);
  assertEquals(await matched("*://example.org/backup", id, "spiffe://example.org/b"), false);
  assertEquals(await matched(other, id, other), true);
});

Deno.test("whoever no rule matches is allowed nothing", async () => {
  const policy = parsePolicy(example, "p.yaml");
  assertEquals(ruleFor(policy, await identity({ subject: [["OU", "admin"]] })), undefined);
  const { rules } = policy;
  const withoutAnonymous: Policy = { rules: rules.slice(0, 3) };
  assertEquals(ruleFor(withoutAnonymous, undefined), undefined);
});

Deno.test("a rule allows what it says, and to read where it does not say", () => {
  const { rules } = parsePolicy(example, "p.yaml");
  assertEquals(rules.map(({ allows }) => allows), [
    {
      services: ["messages", "memory", "files"],
      sessions: undefined,
      withoutRdma: "rdma",
      permissions: { access: ["read", "write"], registeredBytes: Infinity },
    },
    {
      services: ["files"],
      sessions: 2,
      withoutRdma: "rdma",
      permissions: { access: ["write"], root: "backup", registeredBytes: 2 ** 23 },
    },
    {
      services: [],
      sessions: undefined,
      withoutRdma: "rdma",
      permissions: { access: ["read"], registeredBytes: Infinity },
    },
    {
      services: ["messages"],
      sessions: undefined,
      withoutRdma: "rdma",
      permissions: { access: ["read"], registeredBytes: Infinity },
    },
  ]);
});

Deno.test("conditions are on what they say", async () => {
  const certificate = await clientCertificate({
    subject: [["O", "o"], ["OU", "ou"], ["CN", "cn"]],
    names: [
      { type: "dns", value: "dns" },
      { type: "url", value: "uri:a" },
      { type: "email", value: "e@mail" },
    ],
  });
  const who = await peerIdentity(certificate);
  const matching = {
    subject: "CN=cn,OU=ou,O=o",
    "common-name": "cn",
    organization: "o",
    "organizational-unit": "ou",
    dns: "dns",
    uri: "uri:a",
    email: "e@mail",
    fingerprint: who.fingerprint,
  };
  const matches = (match: Record<string, unknown>) => {
    const rule = { match, allow: { services: "messages" } };
    const policy = parsePolicy(JSON.stringify({ rules: [rule] }), "p.yaml");
    return ruleFor(policy, who) !== undefined && ruleFor(policy, undefined) === undefined;
  };
  assert(matches(matching), "all hold");
  for (const [name, value] of Object.entries(matching)) {
    assert(matches({ [name]: value }), name);
    assert(matches({ [name]: [name === "subject" ? "CN=x" : value, value] }), name);
    const wrong = name === "subject" ? "CN=x" : name === "fingerprint" ? "0".repeat(64) : "x";
    assert(!matches({ ...matching, [name]: wrong }), `${name} does not hold`);
  }
});

Deno.test("what is wrong with a policy is told with its line and what is allowed", () => {
  const rule = "rules:\n  - match: { anonymous: true }\n    allow:\n      services: messages\n";
  assertEquals(
    refusal(
      "rules:\n  - match:\n      dns: a\n      uris: b\n    allow: {services: files}\n",
    ),
    '4: match knows no key "uris": allowed are subject, common-name, organization, ' +
      "organizational-unit, dns, uri, email, fingerprint, anonymous",
  );
  assertEquals(refusal("rules:\n\n  - match: {dns: a}\n"), "3: a rule lacks the key allow");
  assertEquals(
    refusal(rule.replace("messages", "[messages,\n       mesages]")),
    '5: "mesages" is not known: allowed are messages, memory, files',
  );
  assertEquals(
    refusal(`${rule}      access: all\n`),
    '5: "all" is not known: allowed are read, write',
  );
  assertEquals(
    refusal(`${rule}      root: a/../../b\n`),
    '5: the root "a/../../b" leaves the server\'s: a path below --root is allowed',
  );
  assertMatch(refusal(`${rule}      root: /etc\n`), /^5: the root/);
  assertMatch(refusal(`${rule}      sessions: 0\n`), /^5: sessions must be a whole number/);
  assertMatch(refusal(`${rule}      sessions: two\n`), /^5: sessions must be a whole number/);
  assertMatch(refusal(`${rule}      registered-memory: 8MB\n`), /^5: registered-memory must/);
  assertMatch(refusal(rule.replace("true", "false")), /^2: anonymous is false/);
  assertMatch(refusal(rule.replace("anonymous: true", "")), /^2: match has no condition/);
  assertMatch(refusal(rule.replace("true", "true, dns: a")), /^2: anonymous stands alone/);
  assertMatch(refusal(rule.replace("anonymous: true", "dns: 1")), /^2: 1 is no text/);
  assertMatch(refusal(rule.replace("anonymous: true", "dns: []")), /^2: an empty list/);
  assertMatch(refusal(rule.replace("anonymous: true", "uri: a**")), /^2: "a\*\*" has \*\*/);
  assertMatch(refusal(`${rule}      services: files\n`), /^5: Map keys must be unique/);
  assertMatch(refusal(`${rule}      root: !secret a\n`), /^5: Unresolved tag/);
  assertMatch(refusal(`${rule}    allow`), /^5: /);
  assertMatch(refusal(""), /^1: the policy must have keys/);
  assertMatch(refusal("rules: []"), /^1: rules has no rule/);
  assertMatch(refusal("rules: none"), /^1: rules must be a list/);
  assertMatch(refusal(rule.replace("rules", "rule")), /^1: the policy /);
});

Deno.test("whatever stands in a file, it is a policy or refused with a line", () => {
  const word = fc.constantFrom(
    ..."rules match allow anonymous true services files subject * & ! [ ] { } : - , \n".split(" "),
    ...["\n  ", " ", ": ", "- ", "&a ", "*a ", "!!map ", "<<: "],
  );
  const text = fc.oneof(fc.string({ unit: "binary" }), fc.array(word).map((all) => all.join("")));
  const property = fc.property(text, (text) => {
    try {
      assert(parsePolicy(text, "p.yaml").rules.length > 0);
    } catch (error) {
      assert(error instanceof UsageError, String(error));
      assertMatch(error.message, /^p\.yaml:\d+: /);
    }
  });
  fc.assert(property, { numRuns: 500 });
});

Deno.test("aliases cannot make a policy grow without measure", () => {
  const lists = Array.from(
    { length: 30 },
    (_, index) => `- &l${index + 1} [${Array(9).fill(`*l${index}`).join(",")}]`,
  );
  refusal(`rules:\n- &l0 [a]\n${lists.join("\n")}\n`);
});

Deno.test("a file that cannot be read is told by name", async () => {
  const { code } = await assertRejects(() => loadPolicy("/nonexistent/policy.yaml"), UsageError);
  assertEquals(code, "policy_unreadable");
});

Deno.test("a renewed certificate is the same identity, and another name another", async () => {
  const one = { subject: [["CN", "a"]], names: [{ type: "dns", value: "b" }] } as const;
  const options: ClientCertificateOptions = { ...one, names: [...one.names] };
  const name = async (options: ClientCertificateOptions) => identityName(await identity(options));
  assertEquals(await name(options), await name({ ...options, serial: "02" }));
  const names = [{ type: "url", value: "b" }] as const;
  assert(await name(options) !== await name({ ...options, names: [...names] }));
  assert(await name({ subject: [] }) !== identityName(undefined));
});
