import { assertEquals } from "@std/assert";
import { getPriority } from "node:os";
import { Workspace } from "../program.ts";
import { startServer } from "./run.ts";

/** Field 19 of stat, counted from behind the name, which may have spaces (proc_pid_stat(5)). */
function niceValue(thread: string): number {
  const fields = Deno.readTextFileSync(`${thread}/stat`).split(") ").at(-1)!.split(" ");
  return Number(fields[16]);
}

Deno.test("workers go before the thread that does handshakes and control frames", async () => {
  await using workspace = await Workspace.create();
  await using server = await startServer(workspace.path, ["--device", "roce", "--workers", "2"]);
  const tasks = `/proc/${server.pid}/task`;
  const threads = [...Deno.readDirSync(tasks)].map(({ name }) => `${tasks}/${name}`);
  const workers = threads.filter((thread) =>
    Deno.readTextFileSync(`${thread}/comm`).startsWith("worker-")
  );
  assertEquals(workers.map(niceValue), [getPriority(), getPriority()]);
  assertEquals(niceValue(`${tasks}/${server.pid}`), getPriority() + 5);
});
