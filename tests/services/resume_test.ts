/** Puts and gets whose queue pair or connection ends in the middle. */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { dirname, join } from "node:path";
import { inSessions } from "../../lib/cli/reconnect.ts";
import { VerbsealError } from "../../lib/errors.ts";
import type { Client } from "../../lib/services/client.ts";
import { Download, Upload } from "../../lib/services/unfinished_transfers.ts";
import { openClient } from "../client.ts";
import { eventually, randomFile, type RunningServer, sha256 } from "../program.ts";
import { provider } from "../provider.ts";
// Before the scene, which opens a device.
import { intrude } from "../session/intruder.ts";
import { CuttingProxy } from "../session/cutting_proxy.ts";
import { failureTest, hostTest, names, reasons, type Scene } from "../session/failure_scene.ts";

/** In the guest half of what takes some time on the host does. */
const SIZE = (provider.name === "verbs" ? 16 : 32) * 2 ** 20;

/** How far a transfer has come; calls `disturb` once when it is through with a quarter. */
class Watch {
  readonly values: number[] = [];
  #disturbed = false;

  constructor(private readonly disturb: () => void) {}

  readonly progress = (bytes: number): void => {
    this.values.push(bytes);
    if (this.#disturbed || bytes < SIZE / 4) return;
    this.#disturbed = true;
    this.disturb();
  };

  /** It went on from where it was. */
  assertResumed(): void {
    assert(this.#disturbed);
    const back = this.values.findIndex((bytes, index) =>
      index > 0 && bytes < this.values[index - 1]!
    );
    assertEquals(back, -1, `back to ${this.values[back]} after ${this.values[back - 1]}`);
    assertEquals(this.values.at(-1), SIZE);
  }
}

/** A file at one side, and the way to the other. */
async function transferOf(
  { workspace }: Scene,
  operation: "put" | "get",
  watch: Watch,
): Promise<{ unfinished: Upload | Download; source: string; target: string }> {
  const near = workspace.file("near");
  const far = `${workspace.root}/far`;
  const [source, target] = operation === "put" ? [near, far] : [far, near];
  await randomFile(source, SIZE);
  const unfinished = operation === "put"
    ? new Upload(near, "far", watch.progress)
    : new Download("far", near, watch.progress);
  return { unfinished, source, target };
}

/** Files in the making. */
function partsBeside(target: string): string[] {
  const folder = dirname(target);
  return [...Deno.readDirSync(folder)].filter(({ name }) => name.endsWith(".part"))
    .map(({ name }) => join(folder, name));
}

function permissions(path: string): number {
  return Deno.statSync(path).mode! & 0o777;
}

function replacements({ log }: RunningServer): number {
  return log.filter(({ message }) => message === "queue pair replaced").length;
}

for (const operation of ["put", "get"] as const) {
  const resumes = (how: string) => `a ${operation} goes on where it was when ${how}`;

  failureTest(resumes("its queue pair failed"), async (scene) => {
    const server = await scene.server();
    const client = await scene.client(server);
    let unfinishedModes: number[] = [];
    const watch = new Watch(() => {
      unfinishedModes = partsBeside(target).map(permissions);
      intrude("server", client, { sent: 4 });
    });
    const { unfinished, source, target } = await transferOf(scene, operation, watch);
    using _closing = unfinished;
    const { session, files } = client;
    const moved = await deadline(session.during(files.move(session, unfinished)), 60_000);
    assertEquals(moved, { size: SIZE, sha256: await sha256(source) });
    assertEquals(await sha256(target), moved.sha256);
    assertEquals([unfinishedModes, permissions(target)], [[0o600], 0o666 & ~Deno.umask()]);
    assertEquals(replacements(server), 1);
    watch.assertResumed();
    assertEquals(names(scene.workspace.root), ["far"]);
  });

  failureTest(resumes("a forged record ended its session"), async (scene) => {
    const server = await scene.server();
    let current: Client | undefined;
    const watch = new Watch(() => intrude("server", current!, { sent: 4, forge: true }));
    const { unfinished, source, target } = await transferOf(scene, operation, watch);
    using _closing = unfinished;
    const { signal } = new AbortController();
    const open = (_signal: AbortSignal, resume?: string) =>
      openClient(scene.workspace, server, { resume });
    const moving = inSessions({ open, signal, seconds: 20 }, async (client, losses) => {
      current = client;
      return { moved: await client.files.move(client.session, unfinished), losses };
    });
    const { moved, losses } = await deadline(moving, 60_000);
    assertEquals([moved.sha256, losses], [await sha256(source), 1]);
    assertEquals(await sha256(target), moved.sha256);
    assertMatch(reasons(server)[0] as string, /^record_/);
    watch.assertResumed();
  });

  hostTest(resumes("its connection was cut"), async (scene) => {
    const server = await scene.server();
    await using proxy = new CuttingProxy(server.port);
    const watch = new Watch(() => proxy.cut());
    const { unfinished, source, target } = await transferOf(scene, operation, watch);
    using _closing = unfinished;
    await using first = await openClient(scene.workspace, proxy);
    const lost = first.session.during(first.files.move(first.session, unfinished));
    await assertRejects(() => deadline(lost, 60_000), VerbsealError);
    await first[Symbol.asyncDispose]();
    await using second = await openClient(scene.workspace, proxy);
    const moved = await deadline(moveBy(second, unfinished), 60_000);
    assertEquals(moved, { size: SIZE, sha256: await sha256(source) });
    assertEquals(await sha256(target), moved.sha256);
    watch.assertResumed();
    assertEquals(names(scene.workspace.root), ["far"]);
  });
}

hostTest(
  "a session that goes on with an earlier one has what that has left, whichever worker has it",
  async (scene) => {
    const server = await scene.server("--workers", "3");
    await using proxy = new CuttingProxy(server.port);
    const watch = new Watch(() => proxy.cut());
    const { unfinished, source, target } = await transferOf(scene, "put", watch);
    using _closing = unfinished;
    await using first = await openClient(scene.workspace, proxy);
    const lost = first.session.during(first.files.move(first.session, unfinished));
    await assertRejects(() => deadline(lost, 60_000), VerbsealError);
    await first[Symbol.asyncDispose]();
    await server.logged(({ message }) => message === "session ended");
    // With nobody else there, the same worker would be the next one's too.
    await scene.client(server);
    const resume = first.session.agreed.session;
    await using second = await openClient(scene.workspace, proxy, { resume });
    await deadline(moveBy(second, unfinished), 60_000);
    assertEquals(await sha256(target), await sha256(source));
    watch.assertResumed();
  },
);

hostTest(
  "what an address leaves unfinished drives out its own, and nobody else's",
  async (scene) => {
    const server = await scene.server("--max-unfinished-per-identity", "1", "--address", "::");
    const parts = () => new Set(partsBeside(`${scene.workspace.root}/far`));
    const leave = async (hostname: string) => {
      let current: Client | undefined;
      const watch = new Watch(() => intrude("server", current!, { sent: 4, forge: true }));
      const { unfinished } = await transferOf(scene, "put", watch);
      using _closing = unfinished;
      const before = parts();
      await using client = current = await openClient(scene.workspace, server, { hostname });
      await assertRejects(() => deadline(moveBy(client, unfinished), 60_000), VerbsealError);
      return [...parts().difference(before)];
    };
    const first = await leave(provider.address);
    const other = await leave("::1");
    const second = await leave(provider.address);
    assertEquals([first.length, other.length, second.length], [1, 1, 1]);
    await eventually("the first one's is gone", () => !parts().has(first[0]!), 5000);
    assertEquals(parts(), new Set([...other, ...second]));
  },
);

hostTest("a get of a file that was changed meanwhile begins again, once", async (scene) => {
  const server = await scene.server();
  await using proxy = new CuttingProxy(server.port);
  const watch = new Watch(() => proxy.cut());
  const { unfinished, source, target } = await transferOf(scene, "get", watch);
  using _closing = unfinished;
  await using first = await openClient(scene.workspace, proxy);
  const lost = first.session.during(first.files.move(first.session, unfinished));
  await assertRejects(() => deadline(lost, 60_000), VerbsealError);
  await randomFile(source, SIZE);
  await using second = await openClient(scene.workspace, proxy);
  const moved = await deadline(moveBy(second, unfinished), 60_000);
  assertEquals(moved.sha256, await sha256(source));
  assertEquals(await sha256(target), moved.sha256);
});

hostTest("a get of a file that is shorter now begins again", async (scene) => {
  const server = await scene.server();
  await using proxy = new CuttingProxy(server.port);
  const watch = new Watch(() => proxy.cut());
  const { unfinished, source, target } = await transferOf(scene, "get", watch);
  using _closing = unfinished;
  await using first = await openClient(scene.workspace, proxy);
  const lost = first.session.during(first.files.move(first.session, unfinished));
  await assertRejects(() => deadline(lost, 60_000), VerbsealError);
  await randomFile(source, 1000);
  await using second = await openClient(scene.workspace, proxy);
  assertEquals((await deadline(moveBy(second, unfinished), 60_000)).size, 1000);
  assertEquals(await sha256(target), await sha256(source));
});

hostTest("a put whose client says goodbye leaves nothing", async (scene) => {
  const server = await scene.server();
  const near = scene.workspace.file("near");
  await randomFile(near, SIZE);
  const client = await scene.client(server);
  const { session, files } = client;
  const leaving = Promise.withResolvers<void>();
  const put = files.put(session, near, "far", () => leaving.resolve());
  put.catch(() => {});
  await leaving.promise;
  await client[Symbol.asyncDispose]();
  await server.logged(({ message, reason }) => message === "session ended" && reason === "bye");
  assertEquals(await server.stop(), 0);
  assertEquals(names(scene.workspace.root), []);
});

hostTest(
  "a server that stops leaves nothing of files that nobody went on with",
  async (scene) => {
    const server = await scene.server();
    await using proxy = new CuttingProxy(server.port);
    const watch = new Watch(() => proxy.cut());
    const { unfinished } = await transferOf(scene, "put", watch);
    using _closing = unfinished;
    await using client = await openClient(scene.workspace, proxy);
    const lost = client.session.during(client.files.move(client.session, unfinished));
    await assertRejects(() => deadline(lost, 60_000), VerbsealError);
    await server.logged(({ message }) => message === "session ended");
    assertEquals(names(scene.workspace.root).map((name) => name.endsWith(".part")), [true]);
    assertEquals(await server.stop(), 0);
    assertEquals(names(scene.workspace.root), []);
  },
);

function moveBy({ session, files }: Client, unfinished: Upload | Download) {
  return session.during(files.move(session, unfinished));
}
