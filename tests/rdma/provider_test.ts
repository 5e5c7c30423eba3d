import { assertEquals, assertThrows } from "@std/assert";
import { UsageError, VerbsealError } from "../../lib/errors.ts";
import { chooseDevice, openDevice, providerOf, selectPort } from "../../lib/rdma/provider.ts";

/**
 * Deno's check for leaks would count the libraries, which are loaded once for the process, and the
 * thread's wait for its sockets, which outlives a test by a moment.
 */
function deviceTest(name: string, run: () => void): void {
  Deno.test({ name, fn: run, sanitizeOps: false, sanitizeResources: false });
}

Deno.test("names tell providers apart, also those that only look alike", () => {
  const names = ["auto", "roce", "roce:::1", "rocep1s0", "mlx5_0:1"];
  assertEquals(names.map(providerOf), [undefined, "roce", "roce", "verbs", "verbs"]);
});

const choices: [wanted: string, connection: string, device: string, gid: string][] = [
  ["roce", "127.0.0.1", "roce:127.0.0.1", "::ffff:127.0.0.1"],
  ["roce", "::1", "roce:::1", "::1"],
  ["roce", "::ffff:127.0.0.2", "roce:127.0.0.2", "::ffff:127.0.0.2"],
  ["roce:127.0.0.3", "::1", "roce:127.0.0.3", "::ffff:127.0.0.3"],
  ["roce:::1", "127.0.0.1", "roce:::1", "::1"],
  ["roce:0:0:0:0:0:0:0:1", "0.0.0.0", "roce:::1", "::1"],
];

for (const [wanted, connection, device, gid] of choices) {
  deviceTest(`--device ${wanted} on a connection of ${connection} is ${device}`, () => {
    const selection = selectPort(wanted, connection);
    assertEquals(
      [selection.provider, selection.device, selection.gid.gid, selection.gid.type],
      ["roce", device, gid, "RoCE v2"],
    );
    assertEquals([selection.port.number, selection.port.state], [1, "ACTIVE"]);
  });
}

Deno.test("on all addresses, the embedded provider's is that of each connection", () => {
  for (const address of ["0.0.0.0", "::", undefined]) {
    const { provider, device, ...rest } = chooseDevice("roce", address);
    assertEquals([provider, device, "port" in rest], ["roce", "roce", false]);
    assertThrows(() => selectPort("roce", address), UsageError);
  }
});

const refusals: [wanted: string, connection: string, code: string, exitCode: number][] = [
  ["roce:", "127.0.0.1", "device", 2],
  ["roce:eth0", "127.0.0.1", "device", 2],
  ["roce:0.0.0.0", "127.0.0.1", "device", 2],
  ["roce:::", "127.0.0.1", "device", 2],
  ["roce:fe80::1", "127.0.0.1", "link_local", 4],
  ["roce", "fe80::1%eth0", "link_local", 4],
  ["roce:198.51.100.7", "127.0.0.1", "no_such_address", 4],
  ["nowhere0:1", "127.0.0.1", "device_not_found", 4],
];

for (const [wanted, connection, code, exitCode] of refusals) {
  deviceTest(`--device ${wanted} on a connection of ${connection} is refused: ${code}`, () => {
    const error = assertThrows(() => selectPort(wanted, connection), VerbsealError);
    assertEquals([error.code, error.exitCode], [code, exitCode]);
  });
}

deviceTest("a look at an address leaves its UDP port of RoCE to whoever opens it first", () => {
  const { device } = selectPort("roce:127.0.48.1");
  using first = openDevice(device);
  using second = openDevice(selectPort("roce:127.0.48.1").device);
  assertEquals([first.udpPort, first.provider], [4791, "roce"]);
  assertEquals(second.udpPort === 4791, false);
});

deviceTest("whoever is told to leave the UDP port of RoCE to others does", () => {
  using device = openDevice("roce:127.0.48.2", { standardPort: false });
  assertEquals(device.udpPort === 4791, false);
});
