import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { RefusedError } from "../../lib/errors.ts";
import { parsePolicy } from "../../lib/security/policy_parser.ts";
import type { Client } from "../../lib/services/client.ts";
import { randomFile, sha256 } from "../program.ts";
import { verbsTest } from "../rdma/resources.ts";
import { IdentityScene } from "./identity_scene.ts";

/** A client whose organizational unit picks the rule. */
async function clientOf(scene: IdentityScene, unit: string): Promise<Client> {
  const subject = [["O", "Example"], ["OU", unit], ["CN", "client"]] as const;
  return await scene.client(await scene.certificate({ subject }));
}

/** A policy with one rule for the organizational unit `a`. */
function allowing(allow: string): string {
  return `rules: [{ name: the rule, match: { organizational-unit: a }, allow: ${allow} }]`;
}

async function refusal(attempt: () => Promise<unknown>): Promise<string> {
  const { code } = await assertRejects(attempt, RefusedError);
  return code;
}

const bytes = new Uint8Array([1, 2, 3]);
const echo = ({ session, messages }: Client) => session.during(messages.ask("ECHO", bytes));
const write = ({ session, memory }: Client) => session.during(memory.write(session, 0, bytes));
const read = ({ session, memory }: Client) => session.during(memory.read(session, 0, 3));

verbsTest("with a policy, who matches no rule is refused and learns nothing of it", async () => {
  await using scene = await IdentityScene.create({ policy: allowing("{ services: messages }") });
  for (const attempt of [() => scene.client(), () => clientOf(scene, "b")]) {
    const error = await assertRejects(attempt, RefusedError);
    assertEquals(
      [error.code, error.message],
      ["policy", "the server's policy does not allow this client"],
    );
  }
  const second = await scene.logged("session ended", 1);
  assertEquals([second.reason, second.subject], ["policy", "CN=client,OU=b,O=Example"]);
  assertEquals(await echo(await clientOf(scene, "a")), bytes);
  assertEquals((await scene.logged("session established")).rule, "the rule");
});

verbsTest("a rule without services refuses, and the log names the rule", async () => {
  await using scene = await IdentityScene.create({ policy: allowing("{ services: [] }") });
  assertEquals(await refusal(() => clientOf(scene, "a")), "policy");
  const { reason, rule } = await scene.logged("session ended");
  assertEquals([reason, rule], ["policy", "the rule"]);
});

verbsTest("a session has the services that its rule allows, and no others", async () => {
  await using scene = await IdentityScene.create({ policy: allowing("{ services: [memory] }") });
  const client = await clientOf(scene, "a");
  assertEquals(client.session.agreed.welcome.choices.services, ["memory"]);
  assertEquals(await read(client), new Uint8Array(3));
  await assertRejects(async () => await echo(client), RefusedError, "no service messages");
  const put = () => client.session.during(client.files.put(client.session, "a", "b"));
  assertEquals(await refusal(put), "service");
  const get = { operation: "get", transfer: 1, path: "file", window: {} };
  assertEquals(await refusal(() => client.session.request("files", get)), "service");
});

verbsTest(
  "who may only read neither puts nor WRITEs, and who may only write neither gets nor READs",
  async () => {
    const allow = (access: string) => allowing(`{ services: [memory, files], access: ${access} }`);
    await using scene = await IdentityScene.create({ policy: allow("read") });
    const [near, far] = [join(scene.root, "near"), join(scene.root, "far")];
    await randomFile(near, 300_000);
    const put = ({ session, files }: Client) => session.during(files.put(session, near, "far"));
    const get = ({ session, files }: Client) => session.during(files.get(session, "near", far));

    const reader = await clientOf(scene, "a");
    assertEquals(await refusal(() => put(reader)), "policy");
    assertEquals(await refusal(() => write(reader)), "policy");
    assertEquals(await read(reader), new Uint8Array(3));
    assertEquals((await get(reader)).sha256, await sha256(near));

    scene.policy = parsePolicy(allow("write"), "policy.yaml");
    const writer = await clientOf(scene, "a");
    assertEquals(await refusal(() => get(writer)), "policy");
    assertEquals(await refusal(() => read(writer)), "policy");
    await write(writer);
    assertEquals((await put(writer)).sha256, await sha256(near));

    assertEquals(await refusal(() => write(reader)), "policy", "a running session keeps its rule");
  },
);

verbsTest("a rule's root is the client's, which no path leaves", async () => {
  const allow = "{ services: files, access: [read, write], root: own }";
  await using scene = await IdentityScene.create({ policy: allowing(allow) });
  const local = join(scene.root, "file");
  await randomFile(local, 1000);
  const client = await clientOf(scene, "a");
  const { session, files } = client;
  const put = (path: string) => session.during(files.put(session, local, path));

  const missing = await assertRejects(() => put("new"), RefusedError);
  assertEquals([missing.code, missing.message.includes("own")], ["root", false]);
  await Deno.mkdir(join(scene.root, "own"));
  await put("new");
  assertEquals(await sha256(join(scene.root, "own/new")), await sha256(local));
  await session.during(files.get(session, "new", join(scene.root, "copy")));
  await Deno.symlink("..", join(scene.root, "own/up"));
  for (const path of ["../file", "/file", "up/file", "a/../../file"]) {
    await assertRejects(
      () => session.during(files.get(session, path, join(scene.root, "stolen"))),
      RefusedError,
    );
    await assertRejects(() => put(path), RefusedError);
  }
  assertEquals(await sha256(local), await sha256(join(scene.root, "own/new")));
});

verbsTest("a link in place of a rule's root leads nowhere", async () => {
  await using scene = await IdentityScene.create({
    policy: allowing("{ services: files, root: own }"),
  });
  const elsewhere = await Deno.makeTempDir({ prefix: "verbseal-" });
  try {
    await Deno.writeTextFile(join(elsewhere, "file"), "secret");
    await Deno.symlink(elsewhere, join(scene.root, "own"));
    const { session, files } = await clientOf(scene, "a");
    const get = () => session.during(files.get(session, "file", join(scene.root, "stolen")));
    assertEquals(await refusal(get), "root");
  } finally {
    await Deno.remove(elsewhere, { recursive: true });
  }
});

verbsTest("an identity has at most so many sessions, which takes nothing from others", async () => {
  await using scene = await IdentityScene.create({
    policy: `
rules:
  - { match: { organization: Example }, allow: { services: messages, sessions: 1 } }
  - { match: { anonymous: true }, allow: { services: messages } }
`,
  });
  const first = await clientOf(scene, "a");
  const another = await assertRejects(() => clientOf(scene, "a"), RefusedError);
  assertEquals(another.code, "sessions_per_identity");
  assertStringIncludes(another.message, "1 sessions");
  await clientOf(scene, "b");
  await scene.client();
  await first[Symbol.asyncDispose]();
  await scene.logged("session ended", 1);
  await clientOf(scene, "a");
});

verbsTest("a session registers no more memory than its rule allows", async () => {
  const allow = "{ services: [memory, files], access: [read, write], registered-memory: 64KiB }";
  await using scene = await IdentityScene.create({ policy: allowing(allow) });
  const file = join(scene.root, "file");
  await randomFile(file, 1000);
  const client = await clientOf(scene, "a");
  const { session, memory, files } = client;
  assertEquals(session.agreed.welcome.limits.registeredBytes, 65536);
  await session.during(memory.write(session, 0, new Uint8Array(65536)));
  await session.during(memory.write(session, 0, new Uint8Array(65536)));
  const beyond = () => session.during(memory.write(session, 65535, new Uint8Array(2)));
  assertEquals(await refusal(beyond), "grant_bounds");
  const put = () => session.during(files.put(session, file, "other"));
  assertEquals(await refusal(put), "registered_memory");
  assertEquals(await read(client), new Uint8Array(3), "the session goes on");
});

verbsTest("a policy that is exchanged holds for the next client", async () => {
  await using scene = await IdentityScene.create({ policy: allowing("{ services: messages }") });
  const before = await clientOf(scene, "a");
  scene.policy = parsePolicy(allowing("{ services: [] }"), "policy.yaml");
  assertEquals(await refusal(() => clientOf(scene, "a")), "policy");
  assertEquals(await echo(before), bytes);
});
