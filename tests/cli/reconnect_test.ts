/** Puts and gets of the compiled program whose connection, or server, is lost in the middle. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { CuttingProxy } from "../session/cutting_proxy.ts";
import { failureTest, hostTest, names, type Scene } from "../session/failure_scene.ts";
import { eventually, randomFile, type Run, run, sha256 } from "../program.ts";
import { provider } from "../provider.ts";
import { tlsArguments } from "../tls_backend.ts";

const SIZE = 96 * 2 ** 20;

type Operation = "put" | "get";

/** Where a file comes from and goes to. */
async function paths({ workspace }: Scene, operation: Operation) {
  const ends = [workspace.file("near"), `${workspace.root}/far`] as const;
  const [source, target] = operation === "put" ? ends : [ends[1], ends[0]];
  await randomFile(source, SIZE);
  return { source, target, directory: operation === "put" ? workspace.root : workspace.path };
}

function move(
  { workspace }: Scene,
  proxy: CuttingProxy,
  operation: Operation,
  ...options: string[]
): Promise<Run> {
  const reaching = [`${provider.address}:${proxy.port}`, "--device", provider.device];
  const files = operation === "put" ? ["near", "far"] : ["far", "near"];
  const trust = [...tlsArguments, "--ca", "certs/ca.pem", "--json"];
  return run(["client", operation, ...reaching, ...files, ...trust, ...options], {
    cwd: workspace.path,
  });
}

/** A quarter of a file has come, under its temporary name. */
function quarter(directory: string): Promise<void> {
  const isThere = () =>
    names(directory).some((name) =>
      name.endsWith(".part") && Deno.statSync(`${directory}/${name}`).size > SIZE / 4
    );
  return eventually("a quarter has come", isThere, 20_000);
}

async function assertMoved(
  { status, stderr, records: [record] }: Run,
  source: string,
  target: string,
) {
  assertEquals(status, 0, stderr);
  const hash = await sha256(source);
  assertEquals([record!.bytes, record!.sha256, record!.reconnects], [SIZE, hash, 1]);
  assertEquals(await sha256(target), hash);
  assertStringIncludes(stderr, "trying to reconnect");
}

for (const operation of ["put", "get"] as const) {
  failureTest(`a ${operation} whose connection is cut reconnects and goes on`, async (scene) => {
    const { source, target, directory } = await paths(scene, operation);
    const server = await scene.server();
    await using proxy = new CuttingProxy(server.port);
    const moving = move(scene, proxy, operation);
    await quarter(directory);
    proxy.cut();
    await assertMoved(await moving, source, target);
    assert(names(directory).every((name) => !name.endsWith(".part")));
  });

  failureTest(`so does a ${operation} without RDMA`, async (scene) => {
    const { source, target, directory } = await paths(scene, operation);
    const server = await scene.server("--transport", "any");
    await using proxy = new CuttingProxy(server.port);
    const moving = move(scene, proxy, operation, "--transport", "ktls");
    await quarter(directory);
    proxy.cut();
    await assertMoved(await moving, source, target);
  });

  failureTest(`a ${operation} whose server is killed waits for another one`, async (scene) => {
    const { source, target, directory } = await paths(scene, operation);
    const first = await scene.server();
    await using proxy = new CuttingProxy(first.port);
    const moving = move(scene, proxy, operation);
    await quarter(directory);
    await first.stop("SIGKILL");
    proxy.cut();
    proxy.target = (await scene.server()).port;
    await assertMoved(await moving, source, target);
  });
}

failureTest("who does not want to reconnect does not", async (scene) => {
  await paths(scene, "get");
  await using proxy = new CuttingProxy((await scene.server()).port);
  const moving = move(scene, proxy, "get", "--reconnect", "0");
  await quarter(scene.workspace.path);
  proxy.cut();
  const { status, stderr } = await moving;
  assertEquals(status, 3, stderr);
  assertEquals(proxy.accepted, 1);
  assertEquals(names(scene.workspace.path), ["certs", "root"]);
});

failureTest("a client that finds no server in time says why, and leaves nothing", async (scene) => {
  await paths(scene, "get");
  const server = await scene.server();
  const proxy = new CuttingProxy(server.port);
  const moving = move(scene, proxy, "get", "--reconnect", "2s");
  await quarter(scene.workspace.path);
  const started = performance.now();
  await proxy[Symbol.asyncDispose]();
  const { stderr, records } = await moving;
  assert(performance.now() - started >= 1900);
  assertStringIncludes(stderr, "refuses the connection");
  assertEquals(records.length, 1);
  assertEquals(names(scene.workspace.path), ["certs", "root"]);
});

failureTest(
  "a client that reconnects looks into what has been revoked meanwhile",
  async (scene) => {
    const { workspace } = scene;
    await paths(scene, "get");
    await using proxy = new CuttingProxy((await scene.server()).port);
    const [empty, list] = ["certs/empty.crl", "certs/ca.crl"];
    await Deno.copyFile(workspace.file(list), workspace.file(empty));
    const revoked = await run(["certs", "revoke", "certs/server.pem"], { cwd: workspace.path });
    assertEquals(revoked.status, 0, revoked.stderr);
    const moving = move(scene, proxy, "get", "--crl", empty);
    await quarter(workspace.path);
    await Deno.rename(workspace.file(list), workspace.file(empty));
    proxy.cut();
    const { status, stderr } = await moving;
    assertEquals(status, 3, stderr);
    assertStringIncludes(stderr, "has been revoked");
  },
);

hostTest("a client that reconnects by libssl resumes its TLS session", async (scene) => {
  const { source, target } = await paths(scene, "get");
  const server = await scene.server("--tls-min", "1.2");
  await using proxy = new CuttingProxy(server.port);
  const moving = move(scene, proxy, "get", "--tls-min", "1.2");
  await quarter(scene.workspace.path);
  proxy.cut();
  await assertMoved(await moving, source, target);
  await server.stop();
  const { handshakes } = await server.logged(({ message }) => message === "stopped");
  assertEquals(handshakes, { full: 1, resumed: 1, failed: 0 });
});

failureTest("a server that refuses is not asked again", async (scene) => {
  await using proxy = new CuttingProxy((await scene.server()).port);
  const { status } = await move(scene, proxy, "get");
  assertEquals(status, 5);
  assertEquals(proxy.accepted, 1);
});
