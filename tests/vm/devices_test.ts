import { assert, assertEquals } from "@std/assert";
import { assertHeld, heldResources, run } from "../program.ts";
import { runAsNobody } from "./nobody.ts";

/** What is looked at of what `devices --json` prints. */
interface Devices {
  readonly devices: {
    readonly name: string;
    readonly ports: { readonly state: string }[];
    readonly numbers: Record<
      "rkeys" | "qpns",
      {
        readonly bitsToGuess?: number;
        readonly steps?: { readonly from: number; readonly to: number };
        readonly error?: { readonly code: string; readonly message: string };
      }
    >;
  }[];
  readonly selected: { readonly device: string; readonly gid: string };
}

Deno.test("verbseal devices shows the port, which it would use, and what is predictable of it", async () => {
  const before = await heldResources();
  const { status, records } = await run(["devices", "--json"]);
  assertEquals(status, 0);
  const { devices, selected } = records[0] as unknown as Devices;
  const [device] = devices;
  assertEquals([device?.name, device?.ports[0]?.state], ["rxe0", "ACTIVE"]);
  assertEquals([selected.device, selected.gid], ["rxe0", "::ffff:10.9.0.1"]);
  // An index that counts, and behind it, of an rkey, 8 bits that are drawn (the kernel's rxe_mr.c).
  const { rkeys, qpns } = device!.numbers;
  assertEquals([rkeys.bitsToGuess! <= 9, qpns.bitsToGuess], [true, 0]);
  assertEquals([rkeys.steps!.from >= 0x1, rkeys.steps!.to <= 0x1ff], [true, true]);
  assertEquals(qpns.steps, { from: 1, to: 1 });
  await assertHeld(before);
});

Deno.test("verbseal devices also tells of a device what a user without locked memory may see", async () => {
  const { status, records } = await runAsNobody(["--memlock=0"], ["devices", "--json"]);
  assertEquals(status, 0);
  const { devices: [device] } = records[0] as unknown as Devices;
  assertEquals(device?.ports[0]?.state, "ACTIVE");
  assertEquals(device?.numbers.rkeys.error?.message, "ibv_reg_mr failed with EPERM");
});

Deno.test("verbseal devices shows what the kernel and the interfaces do of TLS", async () => {
  const { success } = await new Deno.Command("modprobe", { args: ["tls"] }).output();
  assert(success, "the kernel has its module tls");
  const { status, records } = await run(["devices", "--json"]);
  assertEquals(status, 0);
  const { kernelTls: { statistics, interfaces } } = records[0] as {
    kernelTls: {
      statistics: Record<string, number>;
      interfaces: { name: string; loopback: boolean; tx: { on: boolean }; rx: { on: boolean } }[];
    };
  };
  const counts = ["TlsTxSw", "TlsRxSw", "TlsTxDevice", "TlsRxDevice", "TlsDecryptError"];
  for (const name of counts) assertEquals(typeof statistics[name], "number", name);
  const loopback = interfaces.find(({ name }) => name === "lo");
  assert(loopback?.loopback, JSON.stringify(interfaces));
  assert(interfaces.length > 1, "the interface of the RDMA device is there too");
  assertEquals(interfaces.flatMap(({ tx, rx }) => [tx.on, rx.on]).includes(true), false);
});
