import { assertEquals, assertRejects } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { VerbsealError } from "../../lib/errors.ts";
import type { DataPathOptions } from "../../lib/session/data_path.ts";
import { WorkerPool } from "../../lib/session/worker_pool.ts";

const options: DataPathOptions = {
  port: {
    provider: "verbs",
    device: "none",
    port: 1,
    gid: "::",
    gidIndex: 0,
    gidType: "RoCE v2",
    lid: 0,
    mtu: 1024,
  },
  side: "server",
  messageBytes: 4096,
  services: ["messages"],
};

function failingWorkers(): WorkerPool {
  return new WorkerPool(new URL("./failing_worker.ts", import.meta.url), 1, { start: true });
}

Deno.test("a worker that dies ends all of its sessions, and they can be closed", async () => {
  await using pool = failingWorkers();
  const paths = [pool.openDataPath(options), pool.openDataPath(options)];
  const error = await assertRejects(() => paths[0]!.allocate(), VerbsealError, "died of allocate");
  assertEquals(error.code, "worker_died");
  for (const path of paths) {
    assertEquals((await path.failure).code, "worker_died");
    await assertRejects(() => deadline(path.close(), 1000), VerbsealError, "died of allocate");
  }
});

Deno.test("another worker takes the place of one that died", async () => {
  await using pool = failingWorkers();
  const first = pool.openDataPath(options);
  await assertRejects(() => first.allocate(), VerbsealError, "died of allocate");
  const second = pool.openDataPath(options);
  await assertRejects(() => second.request("files", {}), VerbsealError, "died of request");
});
