import { assertMatch } from "@std/assert";

Deno.test("the guest has an active Soft-RoCE port whose path MTU is 4096", async () => {
  const { stdout } = await new Deno.Command("ibv_devinfo", { args: ["-d", "rxe0"] }).output();
  const text = new TextDecoder().decode(stdout);
  assertMatch(text, /state:\s+PORT_ACTIVE/);
  assertMatch(text, /active_mtu:\s+4096/);
});
