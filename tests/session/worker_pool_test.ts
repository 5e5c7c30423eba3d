import { assert, assertEquals, assertRejects } from "@std/assert";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { deadline } from "@std/async/deadline";
import { RdmaError, VerbsealError } from "../../lib/errors.ts";
import type { QueuePairPath, QueuePairPathOptions } from "../../lib/session/data_path.ts";
import { WorkerPool } from "../../lib/session/worker_pool.ts";
import { clientKeys } from "../security/sealed_pair.ts";
import { startWorkers } from "../../lib/services/server_services.ts";

const options: QueuePairPathOptions = {
  port: {
    provider: "verbs",
    device: "none",
    room: 1024,
    port: 1,
    gid: "::",
    gidIndex: 0,
    gidType: "RoCE v2",
    lid: 0,
    mtu: 1024,
  },
  peerProvider: "verbs",
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

Deno.test("what services did on a worker that died still counts, as far as it had told", async () => {
  await using pool = failingWorkers();
  const usage = { files: { calls: 1, received: 2, sent: 3 } };
  assertEquals(await pool.usage(), usage);
  assertEquals(await pool.usage(), usage);
  const path = pool.openDataPath(options);
  await assertRejects(() => path.allocate(), VerbsealError, "died of allocate");
  assertEquals(await pool.usage(), { files: { calls: 2, received: 4, sent: 6 } });
});

Deno.test("keys go to the worker and leave no copy behind", async () => {
  await using pool = failingWorkers();
  const path = pool.openDataPath(options);
  const numbers = { epoch: 0, qpn: 17, psn: 1, gid: "::1", gidType: "RoCE v2", lid: 0 } as const;
  const limits = { mtu: 1024, maxRdAtomic: 1, maxDestRdAtomic: 1, receives: 2 } as const;
  const keys = clientKeys();
  const local = { ...numbers, ...limits };
  const order = { local, remote: local, path: limits, seal: keys };
  await assertRejects(() => path.connect(order), VerbsealError, "died of connect");
  assertEquals([keys.own.buffer.detached, keys.peer.buffer.detached], [true, true]);
});

/** Real workers with the embedded provider on an address that no other test uses. */
async function withEmbeddedWorkers(
  address: string,
  test: (
    udpPort: (peerProvider: QueuePairPathOptions["peerProvider"]) => Promise<number>,
  ) => unknown,
): Promise<void> {
  const log = { level: "error", format: "text" } as const;
  await using pool = startWorkers({ root: undefined, lentBytes: 4096, log }, 3);
  const paths: QueuePairPath[] = [];
  const port = { ...options.port, provider: "roce", device: `roce:${address}` } as const;
  try {
    await test(async (peerProvider) => {
      const path = pool.openDataPath({ ...options, port, peerProvider });
      paths.push(path);
      return (await path.allocate()).udpPort!;
    });
  } finally {
    await Promise.all(paths.map((path) => path.close()));
  }
}

Deno.test("embedded workers have a UDP port each, and one of them that of RoCE", async () => {
  await withEmbeddedWorkers("127.0.47.1", async (udpPort) => {
    const ports = [await udpPort("roce"), await udpPort("roce"), await udpPort("roce")];
    assertEquals(new Set(ports).size, 3);
    assert(ports.includes(4791), `${ports}`);
  });
});

Deno.test("sessions with devices are on the embedded worker that devices can send to", async () => {
  await withEmbeddedWorkers("127.0.47.2", async (udpPort) => {
    assertEquals([await udpPort("verbs"), await udpPort("verbs")], [4791, 4791]);
  });
});

Deno.test("where another program has the UDP port of RoCE, embedded peers are served and devices refused", async () => {
  const address = "127.0.47.3";
  const other = createSocket("udp4").bind(4791, address);
  await once(other, "listening");
  await withEmbeddedWorkers(address, async (udpPort) => {
    assert(await udpPort("roce") !== 4791);
    const error = await assertRejects(() => udpPort("verbs"), RdmaError, "send to 4791 only");
    assertEquals(error.code, "udp_port_taken");
  });
  other.close();
});
