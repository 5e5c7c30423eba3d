/** What only the kernel has, or lets be set, against bad clients. */
import { assertEquals } from "@std/assert";
import { verbsTest } from "../rdma/resources.ts";
import { attackTest, IDLE, Scene } from "../session/attack_scene.ts";

/** Sockets that are made meanwhile hold 4 KiB each way: what is not read is soon in the way. */
async function withSmallSocketBuffers(run: () => Promise<void>): Promise<void> {
  const settings = ["rmem", "wmem"].map((name) => `/proc/sys/net/ipv4/tcp_${name}`);
  const before = settings.map((path) => Deno.readTextFileSync(path));
  for (const path of settings) Deno.writeTextFileSync(path, "4096 4096 4096");
  try {
    await run();
  } finally {
    settings.forEach((path, index) => Deno.writeTextFileSync(path, before[index]!));
  }
}

attackTest("a QP message with a GID that is nowhere", "transition_refused", async (client) => {
  await client.enter();
  await client.offerQueuePair({ gid: "::ffff:192.0.2.77" });
});

/** In the network of the device's port: the kernel asks it, for a second, whose this is. */
const unanswered = { gid: "::ffff:10.9.0.77" };

attackTest(
  "a QP message with a GID that nobody answers for",
  "transition_refused",
  async (client) => {
    await client.enter();
    await client.offerQueuePair(unanswered);
  },
);

attackTest("a client that leaves while the kernel looks for its GID", "hung_up", async (client) => {
  await client.enter();
  await client.offerQueuePair(unanswered);
  await client.hear("QP");
  client.hangUp();
});

verbsTest("a client that sends PINGs and reads no PONG: idle", async () => {
  const scene = Scene.current;
  await withSmallSocketBuffers(async () => {
    using client = await scene.connect();
    await client.establish();
    const flood = (async () => {
      for (;;) await client.send({ name: "PING", body: { id: 1 } });
    })().catch(() => {});
    assertEquals((await scene.ended(client.peer, 2 * IDLE * 1000)).reason, "idle");
    client.dropQueuePair();
    await scene.unharmed();
    client[Symbol.dispose]();
    await flood;
  });
});
