/** What tests of failures share: a server, clients that mean well or not, and nothing left behind. */
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { deadline } from "@std/async/deadline";
import type { Device } from "../../lib/rdma/device.ts";
import { openDevice } from "../../lib/rdma/provider.ts";
import type { Client } from "../../lib/services/client.ts";
import { openClient } from "../client.ts";
import {
  assertHeld,
  eventually,
  heldResources,
  reaching,
  type Run,
  run,
  RunningServer,
  Workspace,
} from "../program.ts";
import { provider } from "../provider.ts";
import { verbsTest } from "../rdma/resources.ts";
import { HostileClient } from "./hostile_client.ts";

/** Certificates and directories for all tests of a file, and a server for those that need none of their own. */
export class Shared implements AsyncDisposable {
  static current: Shared;

  private constructor(
    readonly workspace: Workspace,
    readonly authority: string,
    readonly server: RunningServer,
    readonly device: Device,
    /** What is held when nobody is there. */
    readonly resources: Record<string, number>,
  ) {}

  static async create(): Promise<Shared> {
    const workspace = await Workspace.create("::1");
    const authority = await Deno.readTextFile(workspace.file("certs/ca.pem"));
    const server = await RunningServer.start(workspace);
    const device = openDevice(provider.device);
    // The first session loads what stays for the life of a process.
    {
      await using _client = await openClient(workspace, server);
    }
    // While the server still frees what was that session's, the count could be any.
    await server.logged(({ message }) => message === "session ended");
    return new Shared(workspace, authority, server, device, await heldResources(server));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.device[Symbol.dispose]();
    await this.server[Symbol.asyncDispose]();
    await this.workspace[Symbol.asyncDispose]();
  }
}

// For each test file that imports this one.
Deno.test.beforeAll(async () => {
  Shared.current = await Shared.create();
});

Deno.test.afterAll(async () => {
  await Shared.current[Symbol.asyncDispose]();
});

/** A test, and what it starts; nothing of that is left in the provider or on the disk. */
export function failureTest(name: string, test: (scene: Scene) => Promise<void>): void {
  verbsTest(name, async () => {
    const { resources, server } = Shared.current;
    {
      await using scene = new Scene();
      await test(scene);
    }
    await assertHeld(resources, server);
  });
}

/** What is the same with either provider; a guest would take minutes for it. */
export function hostTest(...test: Parameters<typeof failureTest>): void {
  if (provider.name === "roce") failureTest(...test);
}

/** What one test starts; all of it ends with the scene. */
export class Scene implements AsyncDisposable {
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

  /** Has something done at the end. */
  defer(end: () => Promise<void>): void {
    this.#stack.defer(end);
  }

  /** A server with options of its own. */
  async server(...args: string[]): Promise<RunningServer> {
    return this.#stack.use(await RunningServer.start(this.workspace, args));
  }

  /** A client in this process. */
  async client(server: Pick<RunningServer, "port">, hostname?: string): Promise<Client> {
    return this.#stack.use(
      await openClient(
        this.workspace,
        server,
        hostname === undefined ? {} : { hostname },
      ),
    );
  }

  async hostile(server: RunningServer): Promise<HostileClient> {
    const { authority, device } = Shared.current;
    return this.#stack.use(await HostileClient.connect(server, authority, device));
  }

  /** Runs a client command without `--json`, whose standard error is for people. */
  run(server: RunningServer, name: string, ...args: string[]): Promise<Run> {
    const words = ["client", name, ...reaching(server), ...args, "--ca", "certs/ca.pem"];
    return run(words, { cwd: this.workspace.path });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

/** A run must have failed with this exit code, and have said why in one line without a stack. */
export function assertFailed({ status, stderr }: Run, exitCode: number, says: string): void {
  assertMatch(stderr, /^verbseal: [^\n]+[.?]\n$/);
  assertStringIncludes(stderr, says);
  assertEquals(status, exitCode, stderr);
}

/** What is in a directory. */
export function names(directory: string): string[] {
  return [...Deno.readDirSync(directory)].map(({ name }) => name).sort();
}

/** Why sessions of a server have ended, in their order. */
export function reasons({ log }: RunningServer): unknown[] {
  return log.filter(({ message }) => message === "session ended").map(({ reason }) => reason);
}

/** Why the next session ends. */
export async function nextReason(server: RunningServer): Promise<unknown> {
  const { length } = reasons(server);
  const ended = server.logged(() => reasons(server).length > length);
  await deadline(ended, 15_000);
  return reasons(server)[length];
}

/** Waits until no more queue pairs are left than these; those of the embedded provider nobody else counts. */
export async function queuePairsLeft(count: number): Promise<void> {
  const { qp } = Shared.current.resources;
  if (qp === undefined) return;
  const gone = async () => (await heldResources()).qp === qp + count;
  await eventually(`${count} queue pairs are left`, gone, 1000);
}

/** Runs a system command, which must succeed. */
export async function command(name: string, ...args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(name, { args }).output();
  if (!success) throw new Error(`${name} ${args.join(" ")}: ${new TextDecoder().decode(stderr)}`);
}
