/** How sessions end when a client or a server stands still, is killed, or is told to stop. */
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { deadline } from "@std/async/deadline";
import { RdmaError } from "../../lib/errors.ts";
import { MessageKind } from "../../lib/session/service.ts";
import { executable, randomFile, reaching, type Run, RunningServer, sha256 } from "../program.ts";
import {
  assertFailed,
  failureTest,
  hostTest,
  names,
  nextReason,
  queuePairsLeft,
  reasons,
  type Scene,
  Shared,
} from "./failure_scene.ts";
import { tcpConnection } from "./hostile_client.ts";

/** A client of the compiled program that pings until it is ended; resolves when it has a session. */
async function startPing({ workspace }: Scene, server: RunningServer) {
  const options = ["--count", "100000", "--interval", "100ms", "--ca", "certs/ca.pem"];
  const child = new Deno.Command(executable, {
    args: ["client", "ping", ...reaching(server), ...options],
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
  await queuePairsLeft(1); // the client's own
  child.kill("SIGCONT");
  const { status, stderr } = await finish();
  assertMatch(stderr, /^verbseal: [^\n]+\n$/);
  assert(status !== 0);
});

hostTest(
  "an idle time below a second is kept to, and ends no session that lives",
  async (scene) => {
    const server = await scene.server("--idle-timeout", "500ms");
    const { child, finish } = await startPing(scene, server);
    const reason = nextReason(server);
    child.kill("SIGSTOP");
    assertEquals(await reason, "idle");
    child.kill("SIGCONT");
    await finish();
  },
);

failureTest("a client that is killed leaves nothing", async (scene) => {
  const { server } = Shared.current;
  const { child, finish } = await startPing(scene, server);
  const reason = nextReason(server);
  child.kill("SIGKILL");
  assertEquals(await reason, "connection_lost");
  await queuePairsLeft(0);
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

hostTest("a server that is told to stop waits no longer than it may", async (scene) => {
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
