import { assert } from "@std/assert";
import { join } from "node:path";

Deno.test("every row of the threats has a test, and README's table is made of them", async () => {
  const script = join(import.meta.dirname!, "readme_table.ts");
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", script, "--check"],
    stdin: "null",
  }).output();
  assert(success, new TextDecoder().decode(stderr));
});
