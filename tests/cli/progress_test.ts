import { assertEquals, assertStringIncludes } from "@std/assert";
import { beside, run } from "./run.ts";

const script = `${Deno.execPath()} run -A --no-check ${beside("./show_progress.ts")}`;

Deno.test("progress is shown on a terminal, with bytes, and cannot move its cursor", async () => {
  const { stdout } = await run("script", "-qec", script, "/dev/null");
  assertStringIncludes(stdout, "disk\\u001b[2J.img [====================] 100% 4 kiB of 4 kiB");
});

Deno.test("progress is not shown where nobody looks, nor with --json", async () => {
  assertEquals(await run("sh", "-c", script), { code: 0, stdout: "", stderr: "" });
  assertEquals((await run("script", "-qec", `${script} --json`, "/dev/null")).stdout, "");
});
