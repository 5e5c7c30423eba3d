import { assertEquals, assertMatch } from "@std/assert";
import { exists } from "../../lib/exists.ts";
import { offloadLines } from "../../lib/cli/kernel_tls.ts";
import type { InterfaceOffload } from "../../lib/tls/kernel_offload.ts";
import { verbseal } from "./run.ts";

const fixedOff = { on: false, changeable: false, requested: false };
const off = { on: false, changeable: true, requested: false };
const on = { on: true, changeable: true, requested: true };
const wanted = { on: false, changeable: true, requested: true };

/** An interface that runs and offloads nothing, but for what is said. */
function networkInterface(facts: Partial<InterfaceOffload>): InterfaceOffload {
  const nothing = { tx: fixedOff, rx: fixedOff, counters: {} };
  return { name: "eth0", loopback: false, running: true, ...nothing, ...facts };
}

Deno.test("an interface that offloads TLS is shown with what it has counted, not queue by queue", () => {
  const counters = { tx_tls_ctx: 3, tx_tls_ooo: 0, tx0_tls_ctx: 1, tx12_tls_ctx: 2 };
  assertEquals(offloadLines([networkInterface({ tx: on, rx: on, counters })]), [
    "eth0: tls-hw-tx-offload on, tls-hw-rx-offload on",
    "  tx_tls_ctx 3",
  ]);
});

Deno.test("an interface that could offload TLS is shown with the command that has it do so", () => {
  assertEquals(offloadLines([networkInterface({ tx: off, rx: off })]), [
    "eth0: tls-hw-tx-offload off, tls-hw-rx-offload off; " +
    "as root: ethtool -K eth0 tls-hw-tx-offload on tls-hw-rx-offload on",
    "  nothing counted",
  ]);
  assertEquals(
    offloadLines([networkInterface({ tx: wanted, rx: fixedOff })])[0]!,
    [
      "eth0: tls-hw-tx-offload off [requested on], tls-hw-rx-offload off [fixed]",
    ].join(),
  );
});

Deno.test("an interface that offloads no more is shown for what it has counted", () => {
  const lines = offloadLines([networkInterface({ counters: { rx_tls_decrypted_packets: 7 } })]);
  assertEquals(lines[1], "  rx_tls_decrypted_packets 7");
});

Deno.test("interfaces that cannot offload TLS share a line, where anybody would miss it", () => {
  const unknown = { tx: undefined, rx: undefined };
  assertEquals(
    offloadLines([
      networkInterface({ name: "lo", loopback: true }),
      networkInterface({ name: "eth0" }),
      networkInterface({ name: "eth1", running: false }),
      networkInterface({ name: "eth2", ...unknown }),
    ]),
    ["no TLS offload: eth0, eth2"],
  );
  assertEquals(offloadLines([networkInterface({ name: "lo", loopback: true })]), []);
});

Deno.test("devices --json has each interface and the kernel's statistics or why there are none", async () => {
  const { code, stdout, stderr } = await verbseal("devices", "--json");
  assertEquals([code, stderr], [0, ""]);
  const { kernelTls: { interfaces, statistics } } = JSON.parse(stdout);
  const loopback = interfaces.find(({ name }: InterfaceOffload) => name === "lo");
  assertEquals([loopback.loopback, loopback.counters], [true, {}]);
  assertEquals(loopback.tx, fixedOff);
  if (await exists("/proc/net/tls_stat")) {
    assertEquals(typeof statistics.TlsCurrTxSw, "number");
  } else {
    assertEquals(statistics.error.code, "kernel_tls_missing");
    assertMatch(statistics.error.remedy, /^as root: modprobe (-a )?tls/);
  }
});
