import { assertEquals } from "@std/assert";
import { selectPort } from "../lib/rdma/provider.ts";
import { assertHeld, heldResources, RunningServer, Workspace } from "./program.ts";
import { provider } from "./provider.ts";
import { verbsTest } from "./rdma/resources.ts";

// The connection manager keeps a context of the device for the life of this process.
selectPort(provider.device, provider.address);

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
    await assertHeld(before);
  });
}
