import { assertEquals } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { join } from "node:path";
import { openClient } from "../client.ts";
import { assertHeld, heldResources, RunningServer, Workspace } from "../program.ts";
import { verbsTest } from "../rdma/resources.ts";

verbsTest("a client killed by SIGKILL with grants outstanding leaves nothing", async () => {
  await using workspace = await Workspace.create();
  await using server = await RunningServer.start(workspace);
  // The first session loads what stays for the life of a process.
  await (await openClient(workspace, server))[Symbol.asyncDispose]();
  const before = await heldResources(server);
  const script = join(import.meta.dirname!, "granted_client.ts");
  const authority = workspace.file("certs/ca.pem");
  const client = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", script, String(server.port), authority],
    stdin: "null",
    stdout: "piped",
  }).spawn();
  const output = client.stdout.getReader();
  const { value } = await output.read();
  assertEquals(new TextDecoder().decode(value).trim(), "granted");
  client.kill("SIGKILL");
  await client.status;
  await output.cancel();
  await deadline(server.logged(({ reason }) => reason === "connection_lost"), 5000);
  await assertHeld(before, server);
  assertEquals(server.log.filter(({ level }) => level === "error"), []);
  assertEquals([...Deno.readDirSync(workspace.root)], []);
});
