/** Ten thousand connections that stop in the exchange, next to clients that mean well. */
import { deadline } from "@std/async/deadline";
import { delay } from "@std/async/delay";
import { openDevice } from "../../lib/rdma/provider.ts";
import type { Client } from "../../lib/services/client.ts";
import { openClient } from "../client.ts";
import { eventually, heldResources, RunningServer, Workspace } from "../program.ts";
import { provider } from "../provider.ts";
import { attackTest } from "./attack.ts";
import { StoppedConnections } from "./stopped_connections.ts";

/** Its processors are emulated: there a few connections show that kernel objects go too. */
const isGuest = provider.name === "verbs";
const CONNECTIONS = isGuest ? 200 : 10_000;

/** Connections on their way to where they stop. */
const AT_ONCE = isGuest ? 4 : 50;

/** Bytes that a server may hold more than before: what its heap varies by, not what connections leave. */
const MARGIN = 48 * 2 ** 20;

/** Milliseconds within which a client that means well is served. */
const PATIENCE = 30_000;

/** How a server meets a crowd. */
interface Crowd {
  readonly connections: number;
  readonly handshakeTimeout: string;
  /** Milliseconds within which what is left over has gone. */
  readonly patience: number;
}

attackTest<Crowd>({
  rows: ["A4"],
  attack: "opens ten thousand connections that stop at every step of the exchange",
  countermeasure: "the exchange has its time, and all that it took is freed with its connection",
  against: {
    connections: CONNECTIONS,
    handshakeTimeout: isGuest ? "10s" : "2s",
    patience: PATIENCE,
  },
  without: {
    instead: "an exchange that may take an hour, and a hundred connections",
    against: { connections: 100, handshakeTimeout: "1h", patience: 5000 },
  },
  async mount({ connections, handshakeTimeout, patience }) {
    await using workspace = await Workspace.create();
    await using server = await RunningServer.start(workspace, [
      ...["--handshake-timeout", handshakeTimeout],
      // All come from one address here, the honest clients' too: its limits are not the subject.
      ...["--connection-rate", "1000000", "--session-rate", "1000000"],
      ...["--max-handshakes", "4000"],
      ...["--max-clients", "4000", "--max-clients-per-address", "4000"],
      ...["--max-registered-in-all", "16GiB"],
    ]);
    await using honest = await openClient(workspace, server);
    const authority = await Deno.readTextFile(workspace.file("certs/ca.pem"));
    using device = openDevice(provider.device);
    const { port } = server;
    using crowd = new StoppedConnections({ port, authority, device });
    const { descriptors } = held(server);
    const resources = await heldResources(server);
    const over = new AbortController();
    const serving = serve(workspace, server, honest, over.signal);
    // A heap grows to its size with the first thousands; what leaks grows on.
    await crowd.run(connections / 2, AT_ONCE);
    const { bytes } = held(server);
    await crowd.run(connections / 2, AT_ONCE);
    over.abort();
    if (!await serving) return true;
    const isBack = async () => {
      const now = held(server);
      const more = Object.entries(await heldResources(server))
        .filter(([name, count]) => count > resources[name]!);
      return now.descriptors <= descriptors && now.bytes <= bytes + MARGIN && more.length === 0;
    };
    return await eventually("all is freed", isBack, patience).then(() => false, () => true);
  },
});

/** Descriptors, and bytes in memory, of the server's process. */
function held({ pid }: RunningServer): { descriptors: number; bytes: number } {
  const status = Deno.readTextFileSync(`/proc/${pid}/status`);
  return {
    descriptors: [...Deno.readDirSync(`/proc/${pid}/fd`)].length,
    bytes: Number(/VmRSS:\s+(\d+)/.exec(status)![1]) * 1024,
  };
}

/** Asks in an old session and in new ones until it is over; whether all was answered in time. */
async function serve(
  workspace: Workspace,
  server: RunningServer,
  old: Client,
  signal: AbortSignal,
): Promise<boolean> {
  const ask = async ({ session, messages }: Client) => {
    await session.during(messages.ask("ECHO", new Uint8Array(10_000)));
  };
  const askAnew = async () => {
    await using client = await openClient(workspace, server);
    await ask(client);
  };
  try {
    while (!signal.aborted) {
      await deadline(Promise.all([ask(old), askAnew()]), PATIENCE);
      await delay(100);
    }
    return true;
  } catch {
    return false;
  }
}
