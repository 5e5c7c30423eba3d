import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import { startServer, verbseal, verbsealIn } from "./run.ts";

/** Files of no content, where the dynamic linker looks first: what is installed cannot be loaded. */
const noLibraries = await Deno.makeTempDir({ prefix: "verbseal-" });
for (const name of ["libibverbs.so.1", "librdmacm.so.1", "libffi.so.8", "libffi.so.7"]) {
  await Deno.writeFile(join(noLibraries, name), new Uint8Array());
}

Deno.test.afterAll(() => Deno.remove(noLibraries, { recursive: true }));

/** Runs the program where no RDMA library can be loaded, and so sees no device. */
function withoutLibraries(...args: string[]) {
  return verbsealIn({ LD_LIBRARY_PATH: noLibraries }, ...args);
}

/** What `devices --json` prints. */
interface Devices {
  readonly devices: {
    readonly provider: string;
    readonly name: string;
    readonly ports?: { readonly activeMtu: number; readonly gids: { readonly gid: string }[] }[];
    readonly numbers?: Record<"rkeys" | "qpns", { width: number; bitsToGuess: number }>;
  }[];
  readonly embeddedPorts: {
    readonly address: string;
    readonly udpPort: number;
    readonly pid: number;
    readonly counters: Record<string, number>;
  }[];
  readonly selected: {
    readonly provider: string;
    readonly device: string;
    readonly reason: string;
  };
}

Deno.test("without RDMA libraries auto is the embedded provider, and devices says why", async () => {
  const { code, stdout, stderr } = await withoutLibraries("devices", "--json");
  assertEquals([code, stderr], [0, ""]);
  const { devices, selected }: Devices = JSON.parse(stdout);
  assertEquals([selected.provider, selected.device], ["roce", "roce"]);
  assertStringIncludes(selected.reason, "libibverbs.so.1 cannot be loaded");
  const loopback = devices.find(({ name }) => name === "roce:127.0.0.1");
  assertEquals(loopback?.provider, "roce");
  assertEquals(loopback?.ports?.[0]?.gids[0]?.gid, "::ffff:127.0.0.1");
  assert(loopback!.ports![0]!.activeMtu >= 1024);
});

Deno.test("devices says that nothing of the embedded provider's rkeys and QPNs can be predicted", async () => {
  const { stdout } = await withoutLibraries("devices", "--json");
  const { devices }: Devices = JSON.parse(stdout);
  for (const { numbers } of devices) {
    const found = [numbers?.rkeys, numbers?.qpns].map((each) => [each?.width, each?.bitsToGuess]);
    assertEquals(found, [[32, 32], [24, 24]]);
  }
});

Deno.test("devices tells people what the embedded provider can use and how to get a port", async () => {
  const { stdout } = await withoutLibraries("devices");
  assertMatch(stdout, /^roce:127\.0\.0\.1: embedded, MTU \d+\n {2}rkeys: no rule found, 32 bits/m);
  assertMatch(stdout, /^--device auto would use the embedded provider .*cannot be loaded$/m);
  assertStringIncludes(stdout, "apt-get install libibverbs1");
});

Deno.test("an RDMA device that is named still needs its library", async () => {
  const { code, stderr } = await withoutLibraries("devices", "--device", "mlx5_0");
  assertEquals(code, 4);
  assertMatch(stderr, /libibverbs\.so\.1 cannot be loaded\. Install the package libibverbs1/);
});

Deno.test("a device that is named is shown with its reason", async () => {
  const { code, stdout } = await verbseal("devices", "--device", "roce:127.0.0.1");
  assertEquals(code, 0);
  assertStringIncludes(
    stdout,
    "--device roce:127.0.0.1 would use roce:127.0.0.1: --device names it",
  );
});

Deno.test("--connect cm with the embedded provider is refused by a client before it connects", async () => {
  for (const device of ["roce", "roce:127.0.0.1"]) {
    const nobody = ["client", "echo", "127.0.0.1:1", "hello", "--device", device];
    const { code, stderr } = await verbseal(...nobody, "--connect", "cm");
    assertEquals(code, 4);
    assertMatch(stderr, /the embedded provider has no connection manager.*--connect tls/);
  }
});

/** A folder with certificates for a server on this host. */
async function certificateFolder(): Promise<AsyncDisposable & { path: string; ca: string }> {
  const path = await Deno.makeTempDir({ prefix: "verbseal-" });
  const { code, stderr } = await verbseal("certs", "init", "--directory", join(path, "certs"));
  assertEquals(code, 0, stderr);
  return {
    path,
    ca: join(path, "certs/ca.pem"),
    [Symbol.asyncDispose]: () => Deno.remove(path, { recursive: true }),
  };
}

for (const [address, reached] of [["0.0.0.0", "127.0.0.1"], ["::", "127.0.0.1"], ["::1", "::1"]]) {
  Deno.test(`without a device a server on ${address!} and its client say which provider they use and why`, async () => {
    await using folder = await certificateFolder();
    const environment = { LD_LIBRARY_PATH: noLibraries };
    await using server = await startServer(folder.path, ["--address", address!], environment);
    const target = reached === "::1" ? `[::1]:${server.port}` : `${reached}:${server.port}`;
    const echo = ["client", "echo", target, "hello", "--ca", folder.ca, "--json"];
    const { code, stdout, stderr } = await withoutLibraries(...echo);
    const { status, log } = await server.stop();
    assertEquals([code, status], [0, 0], stderr + log);
    const { answer, session } = JSON.parse(stdout);
    assertEquals(answer, "hello");
    assertEquals(
      [session.local.provider, session.local.device, session.remote.provider],
      ["roce", `roce:${reached}`, "roce"],
    );
    const why = "no usable RDMA port: libibverbs.so.1 cannot be loaded";
    assertEquals(stderr.split("\n").length, 2, stderr);
    for (const said of [stderr, log]) {
      assertStringIncludes(said, `device=roce:${reached}`);
      assertStringIncludes(said, `reason="${why}"`);
    }
  });
}

Deno.test("a server on the embedded provider loads no RDMA library", async () => {
  await using folder = await certificateFolder();
  const options = ["--address", "127.0.0.1", "--device", "roce"];
  await using server = await startServer(folder.path, options);
  const target = ["127.0.0.1:" + server.port, "hello", "--ca", folder.ca, "--device", "roce"];
  const { code, stderr } = await verbseal("client", "echo", ...target);
  const mapped = await Deno.readTextFile(`/proc/${server.pid}/maps`);
  assertEquals([code, stderr], [0, ""]);
  assertEquals(mapped.match(/lib(ibverbs|rdmacm|ffi)\.so/), null);
});

Deno.test("devices shows the embedded port of a running server, and what it has counted", async () => {
  await using folder = await certificateFolder();
  const address = "127.0.49.1";
  const options = ["--address", "127.0.0.1", "--device", `roce:${address}`];
  await using server = await startServer(folder.path, options);
  const running = async () => {
    const { stdout } = await verbseal("devices", "--json");
    const { embeddedPorts }: Devices = JSON.parse(stdout);
    return embeddedPorts.find((port) => port.address === address);
  };
  assertEquals(await running(), undefined, "it has had no session");
  const client = ["client", "echo", `127.0.0.1:${server.port}`, "hello", "--ca", folder.ca];
  const { code, stderr } = await verbseal(...client, "--device", "roce");
  assertEquals([code, stderr], [0, ""]);
  const port = await running();
  assertEquals([port?.pid, port?.udpPort], [server.pid, 4791]);
  assert(port!.counters.rx_packets! > 0 && port!.counters.tx_packets! > 0, JSON.stringify(port));
  const { stdout } = await verbseal("devices");
  const line = stdout.split("\n").find((line) => line.startsWith(`roce:${address}, UDP port 4791`));
  assertMatch(line ?? stdout, new RegExp(`process ${server.pid}: .*rx_packets \\d+`));
  assertEquals(line?.match(/ 0(,|$)/), null, "what is zero is left out");
});

Deno.test("a server does not start with the embedded provider and the connection manager", async () => {
  await using folder = await certificateFolder();
  const identity = ["--cert", `${folder.path}/certs/server.pem`];
  const key = ["--key", `${folder.path}/certs/server.key`];
  const server = ["server", ...identity, ...key, "--port", "0", "--connect", "cm"];
  const named = await verbseal(...server, "--device", "roce");
  const chosen = await withoutLibraries(...server);
  assertEquals([named.code, chosen.code], [4, 4]);
  assertStringIncludes(named.stderr, "has no connection manager");
  assertStringIncludes(chosen.stderr, "libibverbs.so.1 cannot be loaded");
});
