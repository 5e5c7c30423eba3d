/**
 * What `--device auto` comes to beside a real device, and that both providers meet: rxe0 here, and
 * the embedded provider on the host at the other end of the wire, which has no device's address.
 */
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { eventually, executable, type Run, run, RunningServer, Workspace } from "../program.ts";
import { rxe } from "../provider.ts";
import { NetworkNamespace } from "./namespace.ts";

const far = NetworkNamespace.addresses;

/** For all tests: starting one takes the guest seconds. */
let workspace: Workspace;
let namespace: NetworkNamespace;
let server: RunningServer;

Deno.test.beforeAll(async () => {
  workspace = await Workspace.create("127.0.0.1", far.ipv4);
  namespace = await NetworkNamespace.create();
  server = await startServer("--device", "auto", "--connect", "cm");
});

Deno.test.afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await namespace[Symbol.asyncDispose]();
  await workspace[Symbol.asyncDispose]();
});

/** Between this host and the other one; the server's log is read all the time, and libraries stay loaded. */
function sessionTest(name: string, run: () => Promise<void>): void {
  Deno.test({ name, fn: run, sanitizeOps: false, sanitizeResources: false });
}

/** One side's part of what a client prints of its session. */
interface Side {
  readonly provider: string;
  readonly device?: string;
  readonly gid: string;
}

function sides({ status, records, stderr }: Run): { local: Side; remote: Side } {
  assertEquals(status, 0, stderr);
  return records[0]!.session as { local: Side; remote: Side };
}

function startServer(...options: string[]): Promise<RunningServer> {
  return RunningServer.start(workspace, ["--handshake-timeout", "60s", ...options]);
}

function echo(host: string, { port }: RunningServer, ...options: string[]): Promise<Run> {
  const trust = ["--ca", workspace.file("certs/ca.pem"), "--timeout", "60s"];
  return run(["client", "echo", `${host}:${port}`, "hello", ...trust, "--json", ...options]);
}

sessionTest(
  "a server on a device serves a client that comes to the embedded provider",
  async () => {
    const answer = await namespace.within(() => echo(rxe.address, server));
    const { local, remote } = sides(answer);
    assertEquals([local.provider, local.device], ["roce", `roce:${far.ipv4}`]);
    assertEquals([remote.provider, remote.gid], ["verbs", `::ffff:${rxe.address}`]);
    assertMatch(answer.stderr, /address 10\.9\.0\.2 is not that of port 1 of rxe0/);
    const { device, peerProvider } = await server.logged(({ message }) =>
      message === "session established"
    );
    assertEquals([device, peerProvider], ["rxe0", "roce"]);
  },
);

sessionTest("on loopback auto takes the first active port, on both sides", async () => {
  const { local, remote } = sides(await echo("127.0.0.1", server));
  assertEquals([local.device, local.gid, remote.gid], ["rxe0", remote.gid, local.gid]);
});

sessionTest("a client that comes to the embedded provider has no connection manager", async () => {
  const { status, stderr } = await namespace.within(() =>
    echo(rxe.address, server, "--connect", "cm")
  );
  assertEquals(status, 4);
  assertMatch(stderr, /no connection manager.*10\.9\.0\.2 is not that of port 1 of rxe0/);
});

sessionTest(
  "a client on a device is served by a server that comes to the embedded provider",
  async () => {
    const options = ["--device", "auto", "--address", "::", "--workers", "3"];
    await using farServer = await namespace.within(() => startServer(...options));
    const { local, remote } = sides(await echo(far.ipv4, farServer));
    assertEquals([local.provider, local.device, remote.provider], ["verbs", "rxe0", "roce"]);
  },
);

sessionTest(
  "a server whose UDP port a device's peer cannot reach refuses it, and says why",
  async () => {
    // rdma_rxe has UDP port 4791 of all addresses of its host.
    await using embedded = await startServer("--device", "roce");
    const { status, stderr } = await echo(rxe.address, embedded, "--device", "rxe0");
    assertEquals(status, 5, stderr);
    assertStringIncludes(stderr, "RDMA devices send to 4791 only");
    const ended = await embedded.logged(({ message }) => message === "session ended");
    assertEquals(ended.reason, "udp_port_taken");
    const answer = await echo(rxe.address, embedded, "--device", "roce");
    assertEquals(sides(answer).remote.provider, "roce");
  },
);

/** What auto comes to, and why. */
async function chosen(command = new Deno.Command(executable, { args: ["devices", "--json"] })) {
  const { code, stdout, stderr } = await command.output();
  assertEquals(code, 0, new TextDecoder().decode(stderr));
  return JSON.parse(new TextDecoder().decode(stdout)).selected;
}

sessionTest("auto goes by with a port that is down, and comes back to it", async () => {
  const set = async (...words: string[]) => {
    await new Deno.Command("ip", { args: words }).output();
  };
  await set("link", "set", "v0", "down");
  try {
    const { provider, reason } = await chosen();
    assertEquals([provider, reason], ["roce", "no usable RDMA port: port 1 of rxe0 is DOWN"]);
  } finally {
    await set("link", "set", "v0", "up");
    await set("address", "replace", "fd09::1/64", "dev", "v0", "nodad");
  }
  await eventually("rxe0 is active", async () => (await chosen()).device === "rxe0", 10_000);
});

sessionTest("a device that may not be opened is no reason to fail, but one to tell", async () => {
  const file = "/dev/infiniband/uverbs0";
  const { mode } = await Deno.stat(file);
  await Deno.chmod(file, 0o600);
  try {
    const nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    const args = [...nobody, "--bounding-set", "-all", executable, "devices", "--json"];
    const { provider, reason } = await chosen(new Deno.Command("setpriv", { args, cwd: "/" }));
    assertEquals(provider, "roce");
    assertMatch(reason, /^no usable RDMA port: rxe0: ibv_open_device failed with E/);
  } finally {
    await Deno.chmod(file, mode! & 0o777);
  }
});
