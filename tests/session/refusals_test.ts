import { assertEquals, assertRejects } from "@std/assert";
import { RefusedError } from "../../lib/errors.ts";
import { eventually, run } from "../program.ts";
import {
  assertFailed,
  failureTest,
  nextReason,
  queuePairsLeft,
  reasons,
  Shared,
} from "./failure_scene.ts";
import { tcpConnection } from "./hostile_client.ts";

failureTest("a port in use and a device that is not there are told by name", async (scene) => {
  const { workspace } = scene;
  const { server } = Shared.current;
  const again = await run(["server", "--port", String(server.port)], { cwd: workspace.path });
  assertFailed(again, 1, `0.0.0.0:${server.port}`);
  const reason = nextReason(server);
  assertFailed(await scene.run(server, "echo", "hello", "--device", "nope"), 4, "nope");
  assertEquals(await reason, "connection_lost");
});

failureTest(
  "clients beyond a limit are refused, and let in again when there is room",
  async (scene) => {
    const server = await scene.server(
      ...["--address", "::", "--max-clients", "2", "--max-clients-per-address", "1"],
    );
    const first = await scene.client(server);
    const refused = await assertRejects(() => scene.client(server), RefusedError);
    assertEquals(refused.code, "clients_per_address");
    await scene.client(server, "::1");
    const third = await assertRejects(() => scene.client(server, "::1"), RefusedError);
    assertEquals(third.code, "clients");
    await server.logged(() => reasons(server).length === 2);
    const reason = nextReason(server);
    await first[Symbol.asyncDispose]();
    assertEquals(await reason, "bye");
    await queuePairsLeft(2);
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
  await server.logged(() => reasons(server).length === 10);
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
