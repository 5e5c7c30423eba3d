/** Queue pairs that fail, and sessions that go on with others. */
import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { QueuePairError, RefusedError, VerbsealError } from "../../lib/errors.ts";
import type { Client } from "../../lib/services/client.ts";
import { defaultLimits } from "../../lib/session/limits.ts";
import type { LogLine, RunningServer } from "../program.ts";
import { provider } from "../provider.ts";
import { CuttingProxy } from "./cutting_proxy.ts";
import { failureTest, nextReason, reasons, type Scene, Shared } from "./failure_scene.ts";
import { Intruder } from "./intruder.ts";

/** A test with an intruder; forged packets reach the embedded provider only. */
function replacementTest(
  name: string,
  test: (scene: Scene, intruder: Intruder) => Promise<void>,
): void {
  if (provider.name !== "roce") return;
  failureTest(name, async (scene) => {
    await using intruder = await Intruder.at(provider.address);
    await test(scene, intruder);
  });
}

/** What the server says of the session's replacement of this epoch. */
function replaced(server: RunningServer, client: Client, epoch: number): Promise<LogLine> {
  const { session } = client.session.agreed;
  const line = server.logged((line) =>
    line.message === "queue pair replaced" && line.session === session && line.epoch === epoch
  );
  return deadline(line, 5000);
}

function numbersOf({ session: { agreed } }: Client) {
  assert(agreed.transport === "rdma");
  return agreed;
}

/** Asks until there is a queue pair that answers. */
function echo({ session, messages }: Client, body: Uint8Array): Promise<Uint8Array> {
  return deadline(session.repeating(() => messages.ask("ECHO", body)), 5000);
}

for (const side of ["client", "server"] as const) {
  replacementTest(
    `a queue pair that fails at the ${side} is replaced within a second, with fresh numbers`,
    async (scene, intruder) => {
      const { server } = Shared.current;
      const client = await scene.client(server);
      const before = numbersOf(client);
      await intruder.attack(side, client);
      const line = await replaced(server, client, 1);
      assertEquals([line.level, line.by, line.reason], [
        "warning",
        side,
        "ibv_event_qp_access_err",
      ]);
      assert(line.seconds as number < 1, `${line.seconds} seconds`);
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

replacementTest("both queue pairs may fail at once", async (scene, intruder) => {
  const { server } = Shared.current;
  const client = await scene.client(server);
  await Promise.all([intruder.attack("client", client), intruder.attack("server", client)]);
  const body = new Uint8Array(1000).fill(7);
  await replaced(server, client, 1);
  assertEquals(await echo(client, body), body);
});

replacementTest(
  "a question under way ends with an error of its own, and may be asked again",
  async (scene, intruder) => {
    const server = await scene.server();
    const client = await scene.client(server);
    const { messages, session } = client;
    const many = Array.from({ length: 16 }, () => messages.ask("ECHO", new Uint8Array(2 ** 20)));
    const outcomes = Promise.allSettled(many);
    await intruder.attack("client", client);
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

replacementTest(
  "what was asked as the server's queue pair failed may be asked again, though its refusal comes with the news",
  async (scene, intruder) => {
    const { server } = Shared.current;
    await using proxy = new CuttingProxy(server.port);
    const client = await scene.client(proxy);
    const { memory, session } = client;
    const held = proxy.hold();
    const requeue = held.more();
    await intruder.attack("server", client);
    await requeue;
    const refusal = held.more();
    const written = session.repeating(() => memory.write(session, 0, new Uint8Array(10)));
    await refusal;
    held.release();
    await deadline(session.during(written), 5000);
  },
);

replacementTest(
  "a session goes on while its queue pair fails again and again, and ends when that is too often",
  async (scene, intruder) => {
    const { server } = Shared.current;
    const client = await scene.client(server);
    const reason = nextReason(server);
    const ended = client.session.during(new Promise<never>(() => {}));
    ended.catch(() => {});
    for (let epoch = 1; epoch <= defaultLimits.requeuesPerMinute; epoch++) {
      await intruder.attack(epoch % 2 === 0 ? "client" : "server", client);
      await replaced(server, client, epoch);
      await echo(client, new Uint8Array(1));
    }
    await intruder.attack("server", client);
    assertEquals(await reason, "requeues");
    const error = await assertRejects(() => deadline(ended, 5000), VerbsealError);
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
