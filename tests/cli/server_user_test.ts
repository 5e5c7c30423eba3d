import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { pointerOf } from "../../ffi/layout.ts";
import { check, libc } from "../../ffi/libc.ts";
import { UsageError } from "../../lib/errors.ts";
import { findUser, isRoot } from "../../lib/security/user.ts";
import {
  executable,
  type LogLine,
  randomFile,
  run,
  RunningServer,
  sha256,
  Workspace,
} from "../program.ts";
import { verbsTest } from "../rdma/resources.ts";
import { giveToNobody, nobody, ofThreads } from "../server_user.ts";

/** Root's alone to listen on, and rarely anybody's. */
const PRIVILEGED_PORT = "1021";

/** Starts a server, which is to end by itself, and gives how. */
async function refusedStart(workspace: Workspace, ...args: string[]) {
  const { status, stderr } = await run(["server", "--port", "0", "--device", "roce", ...args], {
    cwd: workspace.path,
  });
  return { status, error: stderr.trim().split("\n").at(-1)! };
}

/** Gives this process, and so what it starts, groups beside its own; root needs none afterwards. */
function withGroups(...gids: number[]): Disposable {
  const set = (ids: number[]) =>
    check("setgroups", libc().setgroups(BigInt(ids.length), pointerOf(Uint32Array.from(ids))));
  set(gids);
  return { [Symbol.dispose]: () => void set([]) };
}

function isAboutRoot({ message }: LogLine): boolean {
  return message.startsWith("the server runs as root");
}

if (isRoot()) {
  verbsTest(
    "a server with --user moves files, reads its own again and writes its audit log as that user, with nothing of root's left",
    async () => {
      await using workspace = await Workspace.create();
      await giveToNobody(workspace);
      using _groups = withGroups(4, 27);
      const audit = workspace.file("audit.jsonl");
      const args = ["--user", "nobody", "--audit", audit, "--port", PRIVILEGED_PORT];
      await using server = await RunningServer.start(workspace, args);
      const source = workspace.file("source");
      await randomFile(source, 3_000_000);
      for (const [command, ...paths] of [["put", source, "put"], ["get", "put", "got"]] as const) {
        const { status, stderr } = await workspace.client(server, command, paths);
        assertEquals(status, 0, stderr);
      }
      assertEquals(await sha256(workspace.file("got")), await sha256(source));
      const { uid, gid } = nobody;
      for (const path of [`${workspace.root}/put`, audit, `${audit}.key`, `${audit}.head`]) {
        const file = await Deno.stat(path);
        assertEquals([path, file.uid, file.gid], [path, uid, gid]);
      }
      const four = (id: number) => new Set([Array(4).fill(id).join("\t")]);
      assertEquals(ofThreads(server, "Uid"), four(uid));
      assertEquals(ofThreads(server, "Gid"), four(gid));
      assertEquals(ofThreads(server, "Groups"), new Set([""]));
      for (const set of ["CapEff", "CapPrm", "CapAmb"]) {
        assertEquals(ofThreads(server, set), new Set(["0".repeat(16)]), set);
      }
      await Deno.rename(audit, `${audit}.1`);
      Deno.kill(server.pid, "SIGHUP");
      await server.logged(({ message }) => message === "certificates read again");
      await server.logged(({ message }) => message === "the audit log goes on in a new file");
      assertEquals(await server.stop(), 0);
      assertEquals(server.log.filter(({ level }) => level === "error"), []);
      assertEquals(server.log.filter(isAboutRoot), []);
    },
  );

  verbsTest(
    "a server does not start when its user may not read again what it has read as root",
    async () => {
      await using workspace = await Workspace.create();
      const outside = await refusedStart(workspace, "--user", "nobody");
      assertEquals(outside.status, 2);
      assertMatch(outside.error, /user nobody may not use .*certs\/server\.pem cannot be read: /);
      await giveToNobody(workspace);
      for (
        const [path, ...args] of [
          ["certs/server.key"],
          ["root", "--root", "root"],
          ["policy.yaml", "--policy", "policy.yaml"],
          ["audit.jsonl.key", "--audit", "audit.jsonl"],
        ] as const
      ) {
        const file = workspace.file(path);
        if (path === "policy.yaml") {
          await Deno.writeTextFile(
            file,
            "rules: [{ match: { anonymous: true }, allow: { services: messages } }]",
          );
        }
        if (path === "audit.jsonl.key") await Deno.writeFile(file, new Uint8Array(32));
        await Deno.chown(file, 0, 0);
        await Deno.chmod(file, 0o700);
        const { status, error } = await refusedStart(workspace, "--user", "nobody", ...args);
        assertEquals(status, 2, error);
        assertMatch(error, new RegExp(`user nobody may not use .*${path}.*(chown, chmod)`));
        await Deno.chown(file, nobody.uid, nobody.gid);
      }
    },
  );

  verbsTest("no other process of its user looks into a server", async () => {
    await using workspace = await Workspace.create();
    const own = workspace.file("verbseal");
    await Deno.copyFile(executable, own);
    await giveToNobody(workspace);
    const ids = [`--reuid=${nobody.uid}`, `--regid=${nobody.gid}`, "--clear-groups"];
    const wrapper = ["setpriv", ...ids, "sh", "-c", 'shift; exec "$0" "$@"', own];
    await using server = await RunningServer.start(workspace, [], {}, wrapper);
    assertEquals(ofThreads(server, "Uid"), new Set([Array(4).fill(nobody.uid).join("\t")]));
    // Root has what a process of that user's may not see of itself (proc(5)).
    assertEquals((await Deno.stat(`/proc/${server.pid}/environ`)).uid, 0);
  });

  verbsTest("a server that stays root warns of it once, and says what to do", async () => {
    await using workspace = await Workspace.create();
    await using server = await RunningServer.start(workspace);
    assertEquals(await server.stop(), 0);
    const warnings = server.log.filter(isAboutRoot);
    const expected = [["warning", "name another user with --user"]];
    assertEquals(warnings.map(({ level, remedy }) => [level, remedy]), expected);
  });
}

verbsTest("a user that is not there ends the start with what was wrong", async () => {
  await using workspace = await Workspace.create();
  const { status, error } = await refusedStart(workspace, "--user", "no-such-user");
  assertEquals([status, error.split(".")[0]], [2, "verbseal: there is no user no-such-user"]);
});

Deno.test("a user has its own group or the one that is named, by name or by number", () => {
  const root = { uid: 0, gid: 0 };
  for (const text of ["root", "0", "root:root", "root:0", "0:root"]) {
    assertEquals(findUser(text), { name: text, ...root });
  }
  assertEquals(findUser("4294967294:7"), { name: "4294967294:7", uid: 4294967294, gid: 7 });
});

Deno.test("what names no user is refused, and so is the number that means none to C", () => {
  for (
    const text of ["", ":", "root:", ":root", "a:b:c", "no-such-user", "root:no-such-group"]
      .concat("4294967295", "0:4294967295", "3999999999", "-1")
  ) {
    const { code, exitCode } = assertThrows(() => findUser(text), UsageError);
    assertEquals([text, code, exitCode], [text, "unknown_user", 2]);
  }
});
