import { assertEquals } from "@std/assert";
import { heldResources, RunningServer, Workspace } from "./program.ts";
import { verbsTest } from "./rdma/resources.ts";

/** A test with a server of its own, after which nothing is held that was not held before. */
export function serverTest(
  name: string,
  test: (workspace: Workspace, server: RunningServer) => Promise<void>,
  serverArguments: readonly string[] = [],
): void {
  verbsTest(name, async () => {
    const before = await heldResources();
    await using workspace = await Workspace.create();
    await using server = await RunningServer.start(workspace, serverArguments);
    await test(workspace, server);
    assertEquals(await server.stop(), 0, "SIGTERM ends the server with exit code 0");
    assertEquals(await heldResources(), before);
  });
}
