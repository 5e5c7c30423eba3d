import { assertEquals } from "@std/assert";
import { reaching, RunningServer, type Workspace } from "../program.ts";
import { assertFailed, failureTest, Shared } from "../session/failure_scene.ts";
import { giveToNobody } from "../server_user.ts";
import { runAsNobody } from "./nobody.ts";

/** Arguments of a command that needs the device. */
function echo(workspace: Workspace): string[] {
  const ca = workspace.file("certs/ca.pem");
  return ["client", "echo", ...reaching(Shared.current.server), "hello", "--ca", ca];
}

failureTest(
  "a user without access to the device is told what to ask for",
  async ({ workspace }) => {
    const device = "/dev/infiniband/uverbs0";
    const { mode } = await Deno.stat(device);
    await Deno.chmod(device, 0o600);
    await Deno.chmod(workspace.path, 0o755);
    try {
      assertFailed(await runAsNobody([], echo(workspace)), 4, "access to /dev/infiniband");
    } finally {
      await Deno.chmod(device, mode! & 0o777);
    }
  },
);

failureTest("a user who may lock no memory is told which limit to raise", async ({ workspace }) => {
  await Deno.chmod(workspace.path, 0o755);
  const none = await runAsNobody(["--memlock=0"], echo(workspace));
  // libibverbs warns by itself.
  const stderr = none.stderr.split("\n").slice(-2).join("\n");
  assertFailed({ ...none, stderr }, 4, "ulimit -l");
  assertFailed(await runAsNobody(["--memlock=65536"], echo(workspace)), 4, "ulimit -l");
  const enough = await runAsNobody(["--memlock=16777216"], echo(workspace));
  assertEquals(enough.status, 0, enough.stderr);
});

failureTest(
  "a server with --user can lock as much memory as before, though the limit holds for it now",
  async ({ workspace }) => {
    await giveToNobody(workspace);
    const limit = (bytes: string) =>
      new Deno.Command("prlimit", { args: ["--pid", `${Deno.pid}`, `--memlock=${bytes}`] })
        .output();
    await limit("65536");
    // Its first session is slow in a guest of a busy machine.
    const options = ["--user", "nobody", "--handshake-timeout", "60s"];
    await using server = await RunningServer.start(workspace, options);
    await limit("unlimited");
    const { status, stderr } = await workspace.client(server, "echo", ["hello"]);
    assertEquals(status, 0, stderr + JSON.stringify(server.log));
    assertEquals(await server.stop(), 0);
  },
);
