/** What users and operators meet when something is missing, full, forbidden, or goes away. */
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { deadline } from "@std/async/deadline";
import { isDeepStrictEqual } from "node:util";
import { RdmaError, RefusedError } from "../../lib/errors.ts";
import { VerbsDevice } from "../../lib/rdma/verbs/device.ts";
import { Client } from "../../lib/services/client.ts";
import { MessageKind } from "../../lib/session/service.ts";
import { HostileClient, tcpConnection } from "./hostile_client.ts";
import {
  eventually,
  executable,
  guestAddress,
  randomFile,
  rdmaResources,
  type Run,
  run,
  RunningServer,
  sha256,
  Workspace,
} from "./program.ts";
import { rxe, verbsTest } from "./resources.ts";

/** A run must have failed with this exit code, and have said why in one line without a stack. */
function assertFailed({ status, stderr }: Run, exitCode: number, says: string): void {
  assertMatch(stderr, /^verbseal: [^\n]+[.?]\n$/);
  assertStringIncludes(stderr, says);
  assertEquals(status, exitCode, stderr);
}

/** Certificates and directories for all tests, and a server for those that need none of their own. */
class Shared implements AsyncDisposable {
  static current: Shared;

  private constructor(
    readonly workspace: Workspace,
    readonly authority: string,
    readonly server: RunningServer,
    readonly device: VerbsDevice,
    /** What the kernel holds when nobody is there. */
    readonly resources: Record<string, number>,
  ) {}

  static async create(): Promise<Shared> {
    const workspace = await Workspace.create();
    const authority = await Deno.readTextFile(workspace.file("certs/ca.pem"));
    const server = await RunningServer.start(workspace);
    const device = new VerbsDevice(rxe);
    // The first session loads what stays for the life of a process.
    {
      await using _client = await openClient(authority, server);
    }
    const resources = await rdmaResources();
    return new Shared(workspace, authority, server, device, resources);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.device[Symbol.dispose]();
    await this.server[Symbol.asyncDispose]();
    await this.workspace[Symbol.asyncDispose]();
  }
}

Deno.test.beforeAll(async () => {
  Shared.current = await Shared.create();
});

Deno.test.afterAll(async () => {
  await Shared.current[Symbol.asyncDispose]();
});

/** A client in this process. */
function openClient(
  authority: string,
  { port }: RunningServer,
  hostname = guestAddress,
): Promise<Client> {
  return Client.open({
    server: { hostname, port },
    trust: { authorities: [authority] },
    device: "auto",
    connect: "tls",
    cmPort: 4791,
    handshakeSeconds: 10,
    agent: "test",
  });
}

/** A test, and what it starts; nothing of that is left in the kernel or on the disk. */
function failureTest(name: string, test: (scene: Scene) => Promise<void>): void {
  verbsTest(name, async () => {
    const { resources } = Shared.current;
    {
      await using scene = new Scene();
      await test(scene);
    }
    const back = async () => isDeepStrictEqual(await rdmaResources(), resources);
    // The comparison tells more than the wait.
    await eventually("resources are back", back, 1000).catch(() => {});
    assertEquals(await rdmaResources(), resources);
  });
}

class Scene implements AsyncDisposable {
  readonly #stack = new AsyncDisposableStack();
  readonly workspace = Shared.current.workspace;

  constructor() {
    this.#stack.defer(async () => {
      const kept = new Set(["certs", "root"]);
      for (const directory of [this.workspace.root, this.workspace.path]) {
        for (const name of names(directory).filter((name) => !kept.has(name))) {
          await Deno.remove(`${directory}/${name}`, { recursive: true });
        }
      }
    });
  }

  /** A server with options of its own. */
  async server(...args: string[]): Promise<RunningServer> {
    return this.#stack.use(await RunningServer.start(this.workspace, args));
  }

  /** A client in this process; the server's two addresses reach it from two addresses. */
  async client(server: RunningServer, hostname?: string): Promise<Client> {
    return this.#stack.use(await openClient(Shared.current.authority, server, hostname));
  }

  async hostile(server: RunningServer): Promise<HostileClient> {
    const { authority, device } = Shared.current;
    return this.#stack.use(await HostileClient.connect(server, authority, device));
  }

  /** Runs a client command without `--json`, whose standard error is for people. */
  run({ port }: RunningServer, name: string, ...args: string[]): Promise<Run> {
    const words = ["client", name, `${guestAddress}:${port}`, ...args, "--ca", "certs/ca.pem"];
    return run(words, { cwd: this.workspace.path });
  }

  /** A file system with room for so many bytes. */
  async smallDisk(path: string, bytes: number): Promise<void> {
    await Deno.mkdir(path);
    await command("mount", "-t", "tmpfs", "-o", `size=${bytes}`, "tmpfs", path);
    this.#stack.defer(() => command("umount", path));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

async function command(name: string, ...args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(name, { args }).output();
  if (!success) throw new Error(`${name} ${args.join(" ")}: ${new TextDecoder().decode(stderr)}`);
}

/** Runs the program as a user without any privilege. */
async function runAsNobody(limits: string[], args: string[]): Promise<Run> {
  const nobody = [
    "--reuid",
    "65534",
    "--regid",
    "65534",
    "--clear-groups",
    "--bounding-set",
    "-all",
  ];
  const { code, stdout, stderr } = await new Deno.Command("setpriv", {
    args: [...nobody, "prlimit", ...limits, executable, ...args],
    cwd: "/",
  }).output();
  return { status: code, stdout, stderr: new TextDecoder().decode(stderr), records: [] };
}

function names(directory: string): string[] {
  return [...Deno.readDirSync(directory)].map(({ name }) => name).sort();
}

/** Why sessions of a server have ended, in their order. */
function reasons({ log }: RunningServer): unknown[] {
  return log.filter(({ message }) => message === "session ended").map(({ reason }) => reason);
}

/** Why the next session ends. */
async function nextReason(server: RunningServer): Promise<unknown> {
  const { length } = reasons(server);
  const ended = server.logged(() => reasons(server).length > length);
  await deadline(ended, 15_000);
  return reasons(server)[length];
}

/** Waits until a server has no session but those of `others`. */
async function alone(others = 0): Promise<void> {
  const count = Shared.current.resources.qp! + others;
  await eventually(
    "its queue pair is gone",
    async () => (await rdmaResources()).qp === count,
    1000,
  );
}

failureTest("no path leaves the root, and each refusal says why", async (scene) => {
  const { workspace } = scene;
  const { server } = Shared.current;
  await Deno.writeTextFile(workspace.file("secret"), "secret");
  await Deno.writeTextFile(workspace.file("local"), "local");
  await Deno.symlink(workspace.file("secret"), `${workspace.root}/link`);
  await Deno.symlink("..", `${workspace.root}/up`);
  const { files, session } = await scene.client(server);
  const outside = [
    ...["../secret", workspace.file("secret"), "up/secret", "x/../../secret", "missing/x"],
    ...["up", "."],
  ];
  for (const path of [...outside, "link", "missing"]) {
    await assertRejects(() => files.get(session, path, workspace.file("got")), RefusedError, path);
  }
  for (const path of [...outside.filter((path) => path !== "up"), "new/", ".."]) {
    await assertRejects(
      () => files.put(session, workspace.file("local"), path),
      RefusedError,
      path,
    );
  }
  // A link is replaced: what it leads to stays.
  await files.put(session, workspace.file("local"), "link");
  assertEquals(names(workspace.path), ["certs", "local", "root", "secret"]);
  assertEquals(names(workspace.root), ["link", "up"]);
  assertEquals(await Deno.readTextFile(workspace.file("secret")), "secret");

  assertFailed(await scene.run(server, "get", "../secret"), 5, "the path leaves the root");
  assertFailed(await scene.run(server, "put", "nothing-here"), 1, "no such file");
});

failureTest("a full disk is told on either side, and nothing half-written stays", async (scene) => {
  const { workspace } = scene;
  const { server } = Shared.current;
  await scene.smallDisk(`${workspace.root}/small`, 1_000_000);
  await scene.smallDisk(workspace.file("little"), 1_000_000);
  await randomFile(workspace.file("large"), 3_000_000);
  await randomFile(`${workspace.root}/large`, 3_000_000);
  assertFailed(await scene.run(server, "put", "large", "small/x"), 5, "the disk is full");
  assertFailed(await scene.run(server, "get", "large", "little/x"), 1, "the disk is full");
  assertEquals([names(`${workspace.root}/small`), names(workspace.file("little"))], [[], []]);
});

failureTest("a port in use and a device that is not there are told by name", async (scene) => {
  const { workspace } = scene;
  const { server } = Shared.current;
  const again = await run(["server", "--port", String(server.port)], { cwd: workspace.path });
  assertFailed(again, 1, `0.0.0.0:${server.port}`);
  const reason = nextReason(server);
  assertFailed(await scene.run(server, "echo", "hello", "--device", "nope"), 4, "nope");
  assertEquals(await reason, "connection_lost");
});

failureTest("a user without access to the device is told what to ask for", async () => {
  const device = "/dev/infiniband/uverbs0";
  const { mode } = await Deno.stat(device);
  await Deno.chmod(device, 0o600);
  try {
    const { stderr, status } = await runAsNobody([], ["devices"]);
    assertStringIncludes(stderr, "access to /dev/infiniband");
    assertEquals(status, 4);
  } finally {
    await Deno.chmod(device, mode! & 0o777);
  }
});

failureTest("a user who may lock no memory is told which limit to raise", async ({ workspace }) => {
  const { server } = Shared.current;
  await Deno.chmod(workspace.path, 0o755);
  const ca = workspace.file("certs/ca.pem");
  const echo = ["client", "echo", `${guestAddress}:${server.port}`, "hello", "--ca", ca];
  const none = await runAsNobody(["--memlock=0"], echo);
  // libibverbs warns by itself.
  const stderr = none.stderr.split("\n").slice(-2).join("\n");
  assertFailed({ ...none, stderr }, 4, "ulimit -l");
  assertFailed(await runAsNobody(["--memlock=65536"], echo), 4, "ulimit -l");
  const enough = await runAsNobody(["--memlock=16777216"], echo);
  assertEquals(enough.status, 0, enough.stderr);
});

failureTest(
  "clients beyond a limit are refused, and let in again when there is room",
  async (scene) => {
    const server = await scene.server("--max-clients", "2", "--max-clients-per-address", "1");
    const first = await scene.client(server);
    const refused = await scene.run(server, "echo", "hello");
    assertFailed(refused, 5, "this address has its 1 sessions");
    await scene.client(server, "127.0.0.1");
    const third = await assertRejects(() => scene.client(server, "127.0.0.1"), RefusedError);
    assertEquals(third.code, "clients");
    const reason = nextReason(server);
    await first[Symbol.asyncDispose]();
    assertEquals(await reason, "bye");
    await alone(2);
    const next = await scene.client(server);
    assertEquals(await next.messages.ask("ECHO", new Uint8Array(3)), new Uint8Array(3));
  },
);

failureTest("connections beyond a limit are closed before they cost anything", async (scene) => {
  const server = await scene.server("--max-handshakes", "8", "--connection-rate", "4");
  const connections = [];
  for (let count = 0; count < 12; count++) connections.push(await tcpConnection(server.port));
  const closed = ({ tcp }: { tcp: Deno.TcpConn }) =>
    tcp.read(new Uint8Array(1)).then((count) => count === null, () => true);
  const refused = await Promise.all(connections.slice(2).map(closed));
  assertEquals(refused, refused.map(() => true));
  assertEquals(reasons(server)[0], "handshakes_per_address");
  assertEquals(reasons(server).at(-1), "connection_rate");
  for (const { tcp } of connections) tcp.close();
  await eventually("room for others", () => reasons(server).length === 12, 1000);
  await eventually(
    "another chance",
    () => scene.client(server).then(() => true, () => false),
    3000,
  );
});

/** A client of the compiled program that pings until it is ended; resolves when it has a session. */
async function startPing({ workspace }: Scene, { port }: RunningServer) {
  const options = ["--count", "100000", "--interval", "100ms", "--ca", "certs/ca.pem"];
  const child = new Deno.Command(executable, {
    args: ["client", "ping", `${guestAddress}:${port}`, ...options],
    cwd: workspace.path,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const lines = child.stdout.getReader();
  await lines.read();
  return {
    child,
    /** How it ended. */
    async finish(): Promise<Run> {
      const stderr = new Response(child.stderr).text();
      while (!(await lines.read()).done);
      const { code: status } = await child.status;
      return { status, stdout: new Uint8Array(), stderr: await stderr, records: [] };
    },
  };
}

failureTest("a client that stands still is given up after the idle time", async (scene) => {
  const server = await scene.server("--idle-timeout", "2s");
  const { child, finish } = await startPing(scene, server);
  const reason = nextReason(server);
  child.kill("SIGSTOP");
  assertEquals(await reason, "idle");
  await alone(1); // the client's own
  child.kill("SIGCONT");
  const { status, stderr } = await finish();
  assertMatch(stderr, /^verbseal: [^\n]+\n$/);
  assert(status !== 0);
});

failureTest("a client that is killed leaves nothing", async (scene) => {
  const { server } = Shared.current;
  const { child, finish } = await startPing(scene, server);
  const reason = nextReason(server);
  child.kill("SIGKILL");
  assertEquals(await reason, "connection_lost");
  await alone();
  await finish();
});

failureTest("a client whose server is killed says so", async (scene) => {
  const server = await scene.server();
  const { finish } = await startPing(scene, server);
  await server.stop("SIGKILL");
  assertFailed(await finish(), 3, "was lost");
});

failureTest("a server that is told to stop finishes the transfers under way", async (scene) => {
  const { workspace } = scene;
  await randomFile(workspace.file("large"), 10_000_000);
  const server = await scene.server("--drain-timeout", "60s");
  const client = await scene.client(server);
  const idle = await scene.client(server);
  let stopping: Promise<number> | undefined;
  const put = client.files.put(client.session, workspace.file("large"), "large", () => {
    stopping ??= server.stop("SIGTERM");
  });
  const ended = assertRejects(() => idle.session.during(new Promise(() => {})), RdmaError);
  const { sha256: hash } = await client.session.during(put);
  assertEquals(hash, await sha256(workspace.file("large")));
  assertEquals(await stopping, 0);
  assertEquals(await sha256(`${workspace.root}/large`), hash);
  assertStringIncludes((await ended).message, "stopping");
  assertEquals(reasons(server), ["shutdown", "shutdown"]);
});

failureTest("a server that is told to stop waits no longer than it may", async (scene) => {
  const server = await scene.server("--drain-timeout", "1s");
  const client = await scene.hostile(server);
  await client.establish();
  const { window } = client;
  const put = { operation: "put", transfer: 1, path: "never", size: "100", window };
  await client.request("files", put);
  await client.message(MessageKind.FILE_BUFFER_FREE);
  const { tcp } = await tcpConnection(server.port);
  const inExchange = await scene.hostile(server);
  await inExchange.enter();
  const started = performance.now();
  assertEquals(await deadline(server.stop("SIGINT"), 10_000), 0);
  assert(performance.now() - started >= 1000);
  tcp.close();
  assertEquals(reasons(server), ["shutdown", "shutdown", "shutdown"]);
  assertEquals(names(scene.workspace.root), []);
});

/** Waits until the port is active and has its address. */
async function portIsBack(): Promise<void> {
  const ready = () => {
    using device = new VerbsDevice(rxe);
    const [port] = device.ports();
    return port?.state === "ACTIVE" &&
      port.gids.some(({ gid }) => gid === `::ffff:${guestAddress}`);
  };
  await eventually("the port is back", ready, 10_000);
}

failureTest(
  "a port that goes down ends its sessions, and serves again when it is up",
  async (scene) => {
    const { server } = Shared.current;
    const { session } = await scene.client(server);
    const ended = assertRejects(() => session.during(new Promise(() => {})), RdmaError);
    const reason = nextReason(server);
    await command("ip", "link", "set", "v0", "down");
    try {
      assertEquals(await reason, "ibv_event_port_err");
      assertStringIncludes((await ended).message, "PORT_ERR");
      const { status, stderr } = await run(["devices"]);
      assertEquals(status, 4);
      assertStringIncludes(stderr, "ip link set");
    } finally {
      await command("ip", "link", "set", "v0", "up");
      await command("ip", "addr", "replace", "fd09::1/64", "dev", "v0", "nodad");
      await portIsBack();
    }
    const next = await scene.client(server);
    assertEquals(await next.messages.ask("ECHO", new Uint8Array(3)), new Uint8Array(3));
  },
);

failureTest("a machine without a device is told how to get one", async ({ workspace }) => {
  // Another network namespace then has no part in the device, as a machine that has none.
  await command("rdma", "system", "set", "netns", "exclusive");
  try {
    const { code, stderr } = await new Deno.Command("unshare", {
      args: ["--net", executable, "server"],
      cwd: workspace.path,
    }).output();
    const text = new TextDecoder().decode(stderr);
    const failed = { status: code, stdout: new Uint8Array(), stderr: text, records: [] };
    assertFailed(failed, 4, "rdma link add");
  } finally {
    // The namespace takes a moment to go.
    const shared = () => command("rdma", "system", "set", "netns", "shared");
    await eventually("the device is shared", () => shared().then(() => true, () => false), 10_000);
  }
});
