import { assert, assertEquals, assertRejects } from "@std/assert";
import { LimitError, RefusedError } from "../../lib/errors.ts";
import type { DeviceLimits } from "../../lib/rdma/device.ts";
import type { Client } from "../../lib/services/client.ts";
import { sessionRoom } from "../../lib/session/device_room.ts";
import { MESSAGE_BYTES } from "../../lib/session/messenger.ts";
import { Pace } from "../../lib/session/pace.ts";
import { randomFile } from "../program.ts";
import { provider } from "../provider.ts";
import { verbsTest } from "../rdma/resources.ts";
import { IdentityScene } from "./identity_scene.ts";

async function clientOf(scene: IdentityScene, unit: string): Promise<Client> {
  const subject = [["O", "Example"], ["OU", unit], ["CN", "client"]] as const;
  return await scene.client(await scene.certificate({ subject }));
}

/** The code with which the server refuses. */
async function refusal(attempt: () => Promise<unknown>): Promise<string> {
  return (await assertRejects(attempt, RefusedError)).code;
}

verbsTest("an identity has at most so many sessions without a policy too", async () => {
  await using scene = await IdentityScene.create({ limits: { clientsPerIdentity: 2 } });
  const first = await clientOf(scene, "a");
  await clientOf(scene, "a");
  assertEquals(await refusal(() => clientOf(scene, "a")), "sessions_per_identity");
  await clientOf(scene, "b");
  await first[Symbol.asyncDispose]();
  await scene.logged("session ended", 1);
  await clientOf(scene, "a");
});

verbsTest("clients without certificate are nobody's, and count by their address only", async () => {
  await using scene = await IdentityScene.create({ limits: { clientsPerIdentity: 1 } });
  await scene.client();
  await scene.client();
});

verbsTest(
  "what a policy says of an identity's sessions counts, not the server's limit",
  async () => {
    const policy =
      `rules: [{ match: { organization: Example }, allow: { services: messages, sessions: 2 } }]`;
    await using scene = await IdentityScene.create({ policy, limits: { clientsPerIdentity: 1 } });
    await clientOf(scene, "a");
    await clientOf(scene, "a");
    assertEquals(await refusal(() => clientOf(scene, "a")), "sessions_per_identity");
  },
);

verbsTest("a session's registered memory is set aside for it until it ends", async () => {
  const share = MESSAGE_BYTES + 65536;
  const limits = { registeredBytes: share, registeredBytesInAll: 2 * share, lentBytes: 65536 };
  await using scene = await IdentityScene.create({ limits });
  const first = await scene.client();
  await scene.client();
  assertEquals(await refusal(() => scene.client()), "registered_memory_in_all");
  await first[Symbol.asyncDispose]();
  await scene.logged("session ended", 1);
  await scene.client();
});

verbsTest(
  "a session registers what its share leaves beside its messages, and no more",
  async () => {
    const limits = { registeredBytes: MESSAGE_BYTES + 65536 };
    await using scene = await IdentityScene.create({ limits });
    const { session, memory, files } = await scene.client();
    assertEquals(session.agreed.welcome.limits.registeredBytes, 65536);
    await session.during(memory.write(session, 0, new Uint8Array(65536)));
    const file = `${scene.root}/file`;
    await randomFile(file, 1000);
    const put = () => session.during(files.put(session, file, "other"));
    assertEquals(await refusal(put), "registered_memory");
    await session.during(memory.write(session, 0, new Uint8Array(65536)));
  },
);

verbsTest("a device that has no room left refuses a session before anything is made", async () => {
  await using scene = await IdentityScene.create({ room: 1 });
  const first = await scene.client();
  assertEquals(await refusal(() => scene.client()), "device_full");
  await first[Symbol.asyncDispose]();
  await scene.logged("session ended", 1);
  await scene.client();
});

Deno.test("a device has room for as many sessions as it has of what is scarcest", () => {
  const plenty = {
    maxQueuePairs: 1000,
    maxProtectionDomains: 1000,
    maxCompletionQueues: 1000,
    maxMemoryRegions: 80_000,
    maxMemoryWindows: 0,
  } as DeviceLimits;
  assertEquals(sessionRoom(plenty), 1000);
  assertEquals(sessionRoom({ ...plenty, maxQueuePairs: 7 }), 7);
  assertEquals(sessionRoom({ ...plenty, maxProtectionDomains: 6 }), 6);
  assertEquals(sessionRoom({ ...plenty, maxCompletionQueues: 5 }), 5);
  assertEquals(sessionRoom({ ...plenty, maxMemoryRegions: 35 }), 4);
  assertEquals(sessionRoom({ ...plenty, maxMemoryWindows: 3 }), 3);
});

verbsTest("grants come as fast as they may, and the session goes on", async () => {
  await using scene = await IdentityScene.create({ limits: { grantsPerSecond: 20 } });
  const { session, memory } = await scene.client();
  const started = performance.now();
  for (let count = 0; count < 40; count++) {
    await session.during(memory.write(session, 0, new Uint8Array(8)));
  }
  const took = performance.now() - started;
  assert(took > 900, `${took} ms`);
});

Deno.test("who waits for a turn waits no longer than the session lasts", async () => {
  const ending = new AbortController();
  let slowed = 0;
  const pace = new Pace(1, () => slowed++, ending.signal);
  await pace.turn();
  assertEquals(slowed, 0);
  const waiting = pace.turn();
  assertEquals(slowed, 1);
  ending.abort(new LimitError("requests", "the session has ended"));
  await assertRejects(() => waiting, LimitError);
});

verbsTest("messages come as fast as they may, and every one is answered", async () => {
  await using scene = await IdentityScene.create({ limits: { messagesPerSecond: 50 } });
  const { session, messages } = await scene.client();
  const started = performance.now();
  const questions = Array.from({ length: 160 }, (_, index) => new Uint8Array([index]));
  const answers = Promise.all(questions.map((body) => messages.ask("ECHO", body)));
  assertEquals(await session.during(answers), questions);
  const took = performance.now() - started;
  assert(took > 1000, `${took} ms`);
  const { limit, session: name } = await scene.logged("session slowed down");
  assertEquals([limit, name], ["message_rate", session.agreed.session]);
  assert(scene.admission.reports.counts.message_rate! > 0);
});

verbsTest("sessions that one address begins too fast wait for their turn", async () => {
  await using scene = await IdentityScene.create({
    limits: { sessionsPerSecond: 0.2, handshakes: 8 },
  });
  const started = performance.now();
  // Two may come at once.
  for (let count = 0; count < 3; count++) await scene.client();
  const took = performance.now() - started;
  assert(took >= 5000, `${took} ms`);
  const delayed = scene.log.filter(({ rawMessage }) => rawMessage === "session delayed");
  assertEquals(delayed.map(({ properties }) => properties.limit), ["session_rate"]);
});

verbsTest("a client that does not wait for its turn is gone before it", async () => {
  await using scene = await IdentityScene.create({
    limits: { sessionsPerSecond: 0.05, handshakes: 8 },
  });
  for (let count = 0; count < 2; count++) await scene.client();
  const giving = new AbortController();
  const third = scene.client(undefined, giving.signal);
  await scene.logged("session delayed");
  const started = performance.now();
  giving.abort();
  await assertRejects(() => third);
  const { reason } = await scene.logged("session ended");
  assert(["hung_up", "connection_lost"].includes(String(reason)), `ended for ${reason}`);
  const took = performance.now() - started;
  assert(took < 10_000, `${took} ms, and its turn is after 20 seconds`);
  assert(scene.admission.sessionDelay(provider.address) <= 20_000, "the next one has that turn");
});

verbsTest("connections that are refused without end do not fill the log", async () => {
  await using scene = await IdentityScene.create({ limits: { connectionsPerSecond: 1 } });
  using _first = await scene.tcp();
  for (let count = 0; count < 60; count++) {
    using refused = await scene.tcp();
    assertEquals(await refused.read(new Uint8Array(1)).catch(() => null), null);
  }
  const refused = scene.admission.reports.counts.connection_rate!;
  const lines = scene.log.filter(({ properties }) => properties.reason === "connection_rate");
  assert(refused >= 50, `${refused} were refused`);
  assert(lines.length < 20, `${lines.length} lines`);
});

verbsTest(
  "a request that a limit refuses is told of in the log, and the session goes on",
  async () => {
    await using scene = await IdentityScene.create({
      limits: { registeredBytes: MESSAGE_BYTES + 65536 },
    });
    const { session, files, messages } = await scene.client();
    const file = `${scene.root}/file`;
    await randomFile(file, 1000);
    const put = () => session.during(files.put(session, file, "other"));
    assertEquals(await refusal(put), "registered_memory");
    const { limit, session: name } = await scene.logged("request refused");
    assertEquals([limit, name], ["registered_memory", session.agreed.session]);
    assertEquals(await session.during(messages.ask("ECHO", new Uint8Array(1))), new Uint8Array(1));
  },
);
