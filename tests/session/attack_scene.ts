import { assert, assertEquals } from "@std/assert";
import { deadline } from "@std/async/deadline";
import type { Device } from "../../lib/rdma/device.ts";
import { openDevice } from "../../lib/rdma/provider.ts";
import type { Client } from "../../lib/services/client.ts";
import { openClient } from "../client.ts";
import { HostileClient } from "./hostile_client.ts";
import { assertHeld, heldResources, type LogLine, RunningServer, Workspace } from "../program.ts";
import { provider } from "../provider.ts";
import { verbsTest } from "../rdma/resources.ts";

/** The guest's two processors are emulated, and take about a second for an exchange. */
const slowness = provider.name === "verbs" ? 2 : 1;

/** Seconds. */
export const HANDSHAKE = 4 * slowness;
export const IDLE = 6 * slowness;

/** One server for all attacks, and one client that means well and must notice none of them. */
export class Scene implements AsyncDisposable {
  static current: Scene;

  private constructor(
    readonly workspace: Workspace,
    readonly authority: string,
    readonly server: RunningServer,
    readonly device: Device,
    readonly honest: Client,
    /** What is held with the honest client alone. */
    readonly resources: Record<string, number>,
    private readonly stack: AsyncDisposableStack,
  ) {}

  static async create(): Promise<Scene> {
    await using building = new AsyncDisposableStack();
    const workspace = building.use(await Workspace.create());
    const authority = await Deno.readTextFile(workspace.file("certs/ca.pem"));
    const limits = ["--handshake-timeout", `${HANDSHAKE}s`, "--idle-timeout", `${IDLE}s`];
    const server = building.use(await RunningServer.start(workspace, limits));
    const device = building.use(openDevice(provider.device));
    const honest = building.use(await openClient(workspace, server));
    // The server has what it needs for a session when it answers, which may be after its client.
    await honest.session.during(honest.messages.ask("ECHO", new Uint8Array(1)));
    const resources = await heldResources(server);
    const stack = building.move();
    return new Scene(workspace, authority, server, device, honest, resources, stack);
  }

  connect(alpnProtocols?: string[]): Promise<HostileClient> {
    return HostileClient.connect(this.server, this.authority, this.device, { alpnProtocols });
  }

  /** Log lines on the end of this client's session. */
  ends(peer: string): LogLine[] {
    return this.server.log.filter((line) => isEnd(line) && line.peer === peer);
  }

  /** The session's one log line: at the latest when nobody has replaced a queue pair in time. */
  async ended(peer: string, milliseconds = (HANDSHAKE + 1) * 1000): Promise<LogLine> {
    const line = this.server.logged((line) => isEnd(line) && line.peer === peer);
    return await deadline(line, milliseconds);
  }

  /** Nothing is left of others, and the honest client is served as if nothing had happened. */
  async unharmed(): Promise<void> {
    await assertHeld(this.resources, this.server);
    const body = crypto.getRandomValues(new Uint8Array(20_000));
    const { session, messages } = this.honest;
    assertEquals(await deadline(session.during(messages.ask("ECHO", body)), 3000), body);
  }

  filesLeft(): string[] {
    return [...Deno.readDirSync(this.workspace.root)].map(({ name }) => name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stack.disposeAsync();
  }
}

/** Whether a log line is the one that ends a session. */
function isEnd({ message }: LogLine): boolean {
  return message === "session ended";
}

// For each test file that imports this one.
Deno.test.beforeAll(async () => {
  Scene.current = await Scene.create();
});

Deno.test.afterAll(async () => {
  await Scene.current[Symbol.asyncDispose]();
});

/** An attack after the TLS handshake: the server ends that session, for this reason, and no other. */
export function attackTest(
  name: string,
  reason: string,
  attack: (client: HostileClient, scene: Scene) => Promise<void>,
): void {
  verbsTest(`${name}: ${reason}`, async () => {
    const scene = Scene.current;
    using client = await scene.connect();
    await deadline(attack(client, scene), 10_000);
    assertEquals((await scene.ended(client.peer)).reason, reason);
    client.dropQueuePair();
    await scene.unharmed();
    assertEquals(scene.ends(client.peer).length, 1);
  });
}

/** The last test of a file of attacks. */
export function logTest(): void {
  verbsTest(
    "every session ended with exactly one line, and no line tells of the server's inside",
    () => {
      const { server } = Scene.current;
      const peers = server.log.filter(isEnd).map(({ peer }) => peer);
      assertEquals(new Set(peers).size, peers.length);
      assertEquals(server.log.filter(({ reason }) => reason === "internal"), []);
      assertEquals(server.log.filter(({ level }) => level === "error"), []);
      for (const line of server.log) assert(typeof line.level === "string", JSON.stringify(line));
    },
  );
}

/** Bytes of a frame that may say what is not so. */
export function frame(type: number, length: number, body: number[] = []): Uint8Array {
  const header = new DataView(new ArrayBuffer(8));
  header.setUint32(0, type);
  header.setUint32(4, length);
  return new Uint8Array([...new Uint8Array(header.buffer), ...body]);
}
