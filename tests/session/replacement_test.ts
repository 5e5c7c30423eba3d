/** Queue pairs that fail, and sessions that go on with others. */
import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { QueuePairError, RefusedError, VerbsealError } from "../../lib/errors.ts";
import type { Client } from "../../lib/services/client.ts";
import { defaultLimits } from "../../lib/session/limits.ts";
import type { LogLine, RunningServer } from "../program.ts";
import { provider } from "../provider.ts";
import { CuttingProxy } from "./cutting_proxy.ts";
// Before the scene, which opens a device.
import { intrude } from "./intruder.ts";
import { failureTest, nextReason, reasons, type Scene, Shared } from "./failure_scene.ts";

/** Seconds that a replacement takes at most; the guest's two processors are emulated, ten times slower. */
const SECONDS = provider.name === "verbs" ? 10 : 1;

/** Milliseconds after which something that a test waits for is not expected any more. */
const PATIENCE = 5000 * SECONDS;

/** How a queue pair learns of a packet that breaks rules: rdma_rxe flushes its receives. */
const REASON = provider.name === "verbs" ? "ibv_wc_wr_flush_err" : "ibv_event_qp_access_err";

/** What the server says of the session's replacement of this epoch. */
function replaced(server: RunningServer, client: Client, epoch: number): Promise<LogLine> {
  const { session } = client.session.agreed;
  const line = server.logged((line) =>
    line.message === "queue pair replaced" && line.session === session && line.epoch === epoch
  );
  return deadline(line, PATIENCE);
}

function numbersOf({ session: { agreed } }: Client) {
  assert(agreed.transport === "rdma");
  return agreed;
}

/** Asks until there is a queue pair that answers. */
function echo({ session, messages }: Client, body: Uint8Array): Promise<Uint8Array> {
  return deadline(session.repeating(() => messages.ask("ECHO", body)), PATIENCE);
}

/** A client that the server has answered: the session is established there too by then. */
async function answered(scene: Scene, server: Pick<RunningServer, "port">): Promise<Client> {
  const client = await scene.client(server);
  await echo(client, new Uint8Array(1));
  return client;
}

for (const side of ["client", "server"] as const) {
  failureTest(
    `a queue pair that fails at the ${side} is replaced within a second, with fresh numbers`,
    async (scene) => {
      const { server } = Shared.current;
      const client = await answered(scene, server);
      const before = numbersOf(client);
      intrude(side, client);
      const line = await replaced(server, client, 1);
      assertEquals([line.level, line.by, line.reason], ["warning", side, REASON]);
      assert(line.seconds as number < SECONDS, `${line.seconds} seconds`);
      const body = crypto.getRandomValues(new Uint8Array(60_000));
      assertEquals(await echo(client, body), body);
      const { session, local, remote } = numbersOf(client);
      assertEquals(session, before.session);
      assertEquals([local.epoch, remote.epoch], [1, 1]);
      assertEquals([line.qpn, line.peerQpn], [remote.qpn, local.qpn]);
      for (const [now, then] of [[local, before.local], [remote, before.remote]] as const) {
        assertNotEquals([now.qpn, now.psn], [then.qpn, then.psn]);
      }
      await client.memory.write(client.session, 10, body.subarray(0, 1000));
      assertEquals(await client.memory.read(client.session, 10, 1000), body.subarray(0, 1000));
    },
  );
}

failureTest("both queue pairs may fail at once", async (scene) => {
  const { server } = Shared.current;
  const client = await answered(scene, server);
  intrude("client", client);
  intrude("server", client);
  const body = new Uint8Array(1000).fill(7);
  await replaced(server, client, 1);
  assertEquals(await echo(client, body), body);
});

failureTest(
  "a question under way ends with an error of its own, and may be asked again",
  async (scene) => {
    const server = await scene.server();
    const client = await answered(scene, server);
    const { messages, session } = client;
    const many = Array.from({ length: 16 }, () => messages.ask("ECHO", new Uint8Array(2 ** 20)));
    const outcomes = Promise.allSettled(many);
    intrude("client", client);
    const rejected = (await outcomes).filter((outcome) => outcome.status === "rejected");
    assert(rejected.length > 0, "the queue pair failed in the middle");
    for (const { reason } of rejected) assert(reason instanceof QueuePairError, `${reason}`);
    assertEquals(await echo(client, new Uint8Array(3)), new Uint8Array(3));
    await assertRejects(
      () => session.repeating(() => Promise.reject(new RefusedError("no", "not that"))),
      RefusedError,
    );
  },
);

failureTest(
  "what was asked as the server's queue pair failed may be asked again, though its refusal comes with the news",
  async (scene) => {
    const { server } = Shared.current;
    await using proxy = new CuttingProxy(server.port);
    const client = await answered(scene, proxy);
    const { memory, session } = client;
    const held = proxy.hold();
    const requeue = held.more();
    intrude("server", client);
    await requeue;
    const refusal = held.more();
    const written = session.repeating(() => memory.write(session, 0, new Uint8Array(10)));
    await refusal;
    held.release();
    await deadline(session.during(written), PATIENCE);
  },
);

failureTest(
  "a session goes on while its queue pair fails again and again, and ends when that is too often",
  async (scene) => {
    const { server } = Shared.current;
    const client = await answered(scene, server);
    const reason = nextReason(server);
    const ended = client.session.during(new Promise<never>(() => {}));
    ended.catch(() => {});
    for (let epoch = 1; epoch <= defaultLimits.requeuesPerMinute; epoch++) {
      intrude(epoch % 2 === 0 ? "client" : "server", client);
      await replaced(server, client, epoch);
      await echo(client, new Uint8Array(1));
    }
    intrude("server", client);
    assertEquals(await reason, "requeues");
    const error = await assertRejects(() => deadline(ended, PATIENCE), VerbsealError);
    assertEquals(error.code, "requeues");
    assertEquals(reasons(server).filter((each) => each === "requeues").length, 1);
  },
);

failureTest("a REQUEUE of another epoch than the next ends the session", async (scene) => {
  const { server } = Shared.current;
  const client = await scene.hostile(server);
  await client.establish();
  const reason = nextReason(server);
  await client.send({ name: "REQUEUE", body: { epoch: 2, reason: "because" } });
  assertEquals(await reason, "epoch");
});

failureTest("frames without end about queue pairs end the session", async (scene) => {
  const { server } = Shared.current;
  const client = await scene.hostile(server);
  await client.establish();
  const reason = nextReason(server);
  await client.send({ name: "REQUEUE", body: { epoch: 1, reason: "because" } });
  const ready = { name: "READY", body: { epoch: 1 } } as const;
  for (let count = 0; count < 100; count++) await client.send(ready).catch(() => {});
  assert(["requeue", "out_of_turn"].includes(await reason as string));
});
