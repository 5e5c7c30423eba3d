import { assertEquals } from "@std/assert";
import { run } from "../program.ts";

Deno.test("verbseal devices shows the port and says which it would use", async () => {
  const { status, records } = await run(["devices", "--json"]);
  assertEquals(status, 0);
  const { devices, selected } = records[0] as {
    devices: { name: string; ports: { state: string }[] }[];
    selected: { device: string; gid: string };
  };
  assertEquals([devices[0]?.name, devices[0]?.ports[0]?.state], ["rxe0", "ACTIVE"]);
  assertEquals([selected.device, selected.gid], ["rxe0", "::ffff:10.9.0.1"]);
});
