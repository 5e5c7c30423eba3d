import { assert, assertEquals, assertThrows } from "@std/assert";
import { libc, SystemError } from "../../ffi/libc.ts";
import {
  decodeFeatures,
  decodeStatistics,
  decodeStrings,
  type FeatureState,
  interfaceNames,
  InterfaceSocket,
} from "../../lib/tls/interface_socket.ts";

// Deno's check for leaks wants libraries loaded before the first test.
libc();

/** Lines of ethtool's output on an interface, without the heading; none where it says there is nothing. */
async function ethtool(option: string, name: string): Promise<string[]> {
  const { success, stdout, stderr } = await new Deno.Command("/usr/sbin/ethtool", {
    args: [option, name],
  }).output();
  const said = new TextDecoder().decode(stderr);
  assert(success || said.includes("no stats available"), said);
  return new TextDecoder().decode(stdout).trim().split("\n").slice(1).map((line) => line.trim());
}

/** A state as `ethtool -k` writes it. */
function written({ on, changeable, requested }: FeatureState): string {
  const value = on ? "on" : "off";
  if (!changeable) return `${value} [fixed]`;
  return on === requested ? value : `${value} [requested ${requested ? "on" : "off"}]`;
}

Deno.test("all interfaces are listed that the kernel has", async () => {
  const entries = await Array.fromAsync(Deno.readDir("/sys/class/net"));
  // Bonding puts a file of its own there.
  const names = entries.filter(({ isFile }) => !isFile).map(({ name }) => name);
  assertEquals(interfaceNames().sort(), names.sort());
});

Deno.test("features have the states that ethtool -k shows", async () => {
  using socket = new InterfaceSocket();
  for (const name of interfaceNames()) {
    const features = socket.features(name);
    const shown = new Map(
      (await ethtool("-k", name)).map((line) => line.split(": ") as [string, string]),
    );
    // ethtool also sums some up under names of its own, and gives old names to others.
    const both = [...features].filter(([feature]) => shown.has(feature));
    assert(both.length > 20, `${name}: ${[...shown.keys()]}`);
    for (const [feature, state] of both) {
      assertEquals(written(state), shown.get(feature), `${feature} of ${name}`);
    }
    for (const feature of ["tls-hw-tx-offload", "tls-hw-rx-offload"]) {
      assertEquals(features.has(feature), shown.has(feature), `${feature} of ${name}`);
    }
  }
});

Deno.test("counters are those of ethtool -S", async () => {
  using socket = new InterfaceSocket();
  const counted = async (name: string) =>
    (await ethtool("-S", name)).map((line): [string, number] => {
      const [, counter, value] = /^(.+): (\d+)$/.exec(line)!;
      return [counter!, Number(value)];
    });
  for (const name of interfaceNames()) {
    const before = await counted(name);
    const between = [...socket.statistics(name)];
    const after = await counted(name);
    assertEquals(between.map(([counter]) => counter), before.map(([counter]) => counter));
    for (const [index, [counter, value]] of between.entries()) {
      assert(before[index]![1] <= value && value <= after[index]![1], `${counter} of ${name}`);
    }
  }
});

Deno.test("an interface that is gone is ENODEV", () => {
  using socket = new InterfaceSocket();
  for (const ask of ["flags", "features", "statistics"] as const) {
    const error = assertThrows(() => socket[ask]("nosuchinterface"), SystemError);
    assertEquals(error.code, "ENODEV", ask);
  }
});

Deno.test("feature bits are found in their block, whatever the block before has", () => {
  const names = Array.from({ length: 64 }, () => "");
  names[0] = "first";
  names[31] = "last-of-block";
  names[32] = "fixed-off";
  names[33] = "fixed-on";
  names[34] = "switchable-off";
  names[35] = "switchable-on";
  names[36] = "wanted-off";
  names[37] = "wanted-on";
  names[63] = "never-changed";
  // available, requested, active, never_changed of both blocks, little-endian.
  // deno-fmt-ignore
  const blocks = new Uint8Array([
    0x01, 0x00, 0x00, 0x80,  0x00, 0x00, 0x00, 0x80,  0x00, 0x00, 0x00, 0x80,  0x00, 0x00, 0x00, 0x00,
    0x3c, 0x00, 0x00, 0x80,  0x28, 0x00, 0x00, 0x80,  0x1a, 0x00, 0x00, 0x80,  0x00, 0x00, 0x00, 0x80,
  ]);
  const states = [...decodeFeatures(names, blocks)].map(([name, state]) => [name, written(state)]);
  assertEquals(Object.fromEntries(states), {
    "first": "off",
    "last-of-block": "on",
    "fixed-off": "off [fixed]",
    "fixed-on": "on [fixed]",
    "switchable-off": "off",
    "switchable-on": "on",
    "wanted-off": "on [requested off]",
    "wanted-on": "off [requested on]",
    "never-changed": "on [fixed]",
  });
});

Deno.test("strings have 32 octets each, with a zero at the end or none", () => {
  const full = "tx_tls_encrypted_packets_32_long";
  const bytes = new Uint8Array(4 * 32);
  ["tls-hw-tx-offload", "", full, "beyond"].forEach((text, index) =>
    bytes.set(new TextEncoder().encode(text), index * 32)
  );
  assertEquals(decodeStrings(bytes, 3), ["tls-hw-tx-offload", "", full]);
});

Deno.test("counters have 64 bits, wherever they begin in memory", () => {
  // deno-fmt-ignore
  const bytes = new Uint8Array([
    0xff, 0xff, 0xff, 0xff,
    0x01, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00,
  ]);
  const counters = decodeStatistics(["tx_tls_ctx", "rx_tls_ctx"], bytes.subarray(4));
  assertEquals([...counters], [["tx_tls_ctx", 0x201], ["rx_tls_ctx", 2 ** 32]]);
});
