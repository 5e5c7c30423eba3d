import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { libc } from "../../ffi/libc.ts";
import { policyExample } from "../../lib/cli/policy_help.ts";
import { parsePolicy } from "../../lib/security/policy_parser.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import { writeCertificates } from "../../lib/tls/certificate_files.ts";
import { verbseal } from "./run.ts";

// Deno's check for leaks wants what writes certificates there before the first test.
libc();

Deno.test("the policy in the help is one, and the README has the same", async () => {
  const { rules } = parsePolicy(policyExample, "example.yaml");
  assertEquals(rules.map(({ name }) => name), ["backup hosts", "line 12", "line 14"]);
  const readme = await Deno.readTextFile(new URL("../../README.md", import.meta.url));
  assertStringIncludes(readme, policyExample);
  const { stdout } = await verbseal("server", "--help");
  for (const line of policyExample.trimEnd().split("\n")) assertStringIncludes(stdout, line);
  assert(stdout.split("\n").every((line) => line.length <= 100), stdout);
});

Deno.test("a server with a bad policy says so before it listens", async () => {
  const directory = await Deno.makeTempDir({ prefix: "verbseal-" });
  try {
    const certificates = await createCertificates({ hosts: ["localhost"], days: 1 });
    await writeCertificates(directory, certificates, { overwrite: false });
    const policy = join(directory, "policy.yaml");
    const fails = async (text: string, ...says: string[]) => {
      await Deno.writeTextFile(policy, text);
      const { code, stdout, stderr } = await verbseal(
        ...["server", "--port", "0", "--root", directory, "--policy", policy],
        ...["--cert", join(directory, "server.pem"), "--key", join(directory, "server.key")],
      );
      assertEquals([code, stdout], [2, ""], stderr);
      assertMatch(stderr, /^verbseal: [^\n]+\n$/);
      for (const part of says) assertStringIncludes(stderr, part);
    };
    await fails("rules:\n  - match: { anonymous: yes }\n", `${policy}:2: `, "anonymous");
    const root =
      "rules:\n  - match: { anonymous: true }\n    allow: { services: files, root: own }\n";
    await fails(root, 'rule "line 2"', "own: there is no such file or directory");
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
