/** Clients that have their queue pair replaced, and then stop, lie or leave at any step of that. */
import { encode } from "../../lib/control/messages.ts";
import { defaultLimits } from "../../lib/session/limits.ts";
import { attackTest, logTest } from "./attack_scene.ts";
import type { HostileClient } from "./hostile_client.ts";

function requeue(epoch: number) {
  return { name: "REQUEUE", body: { epoch, reason: "because" } } as const;
}

/** Says of another queue pair what was true of the first one. */
async function offerOldNumbers(client: HostileClient, epoch: number): Promise<void> {
  await client.send({ name: "QP", body: { ...client.numbers.local, epoch } });
}

attackTest("REQUEUE before there is a queue pair", "out_of_turn", async (client) => {
  await client.enter();
  await client.send(requeue(1));
});

attackTest("REQUEUE, and no other queue pair", "queue_pair_failed", async (client) => {
  await client.establish();
  await client.send(requeue(1));
  await client.hear("ERROR");
});

attackTest("a client that leaves as its queue pair is replaced", "bye", async (client) => {
  await client.establish();
  await client.send(requeue(1));
  await client.send({ name: "BYE", body: {} });
});

attackTest(
  "a client that leaves before the other queue pair is proved",
  "bye",
  async (client) => {
    await client.establish();
    await client.send(requeue(1));
    await offerOldNumbers(client, 1);
    await client.hear("READY");
    await client.send({ name: "BYE", body: {} });
  },
);

attackTest("a queue pair that fails before each is proved", "requeues", async (client) => {
  await client.establish();
  for (let epoch = 1; epoch <= defaultLimits.requeuesPerMinute; epoch++) {
    await client.send(requeue(epoch));
    await offerOldNumbers(client, epoch);
    await client.hear("READY");
  }
  await client.send(requeue(defaultLimits.requeuesPerMinute + 1));
});

attackTest("more REQUEUEs at once than are worth a look", "requeue", async (client) => {
  await client.establish();
  const frames = Array.from({ length: 40 }, (_, index) => [...encode(requeue(index + 1)).bytes]);
  await client.writeBytes(new Uint8Array(frames.flat()));
});

attackTest("READY in place of the other queue pair's QP", "out_of_turn", async (client) => {
  await client.establish();
  await client.send(requeue(1));
  await client.send({ name: "READY", body: { epoch: 1 } });
});

attackTest("QP of the epoch before", "epoch", async (client) => {
  await client.establish();
  await client.send(requeue(1));
  await offerOldNumbers(client, 0);
});

attackTest("REQUEUE of the same epoch twice", "epoch", async (client) => {
  await client.establish();
  await client.send(requeue(1));
  await client.send(requeue(1));
});

logTest();
