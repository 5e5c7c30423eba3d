import { assert, assertEquals, assertRejects } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { join } from "node:path";
import { psnDistance } from "../../lib/rdma/roce/psn.ts";
import { type KeyLimits, keyLimits } from "../../lib/security/record_lane.ts";
import { preferredCiphers } from "../../lib/security/record_ciphers.ts";
import type { QueuePairPath } from "../../lib/session/data_path.ts";
import { LocalDataPath } from "../../lib/session/local_data_path.ts";
import { authority, System } from "../attacks/system.ts";
import { type ServiceClients, useServices } from "../interop/session_end.ts";
import { randomFile } from "../program.ts";
import { verbsTest } from "../rdma/resources.ts";
import { OwnClient } from "./own_client.ts";

/** Bytes of a file: a dozen chunks. */
const FILE_BYTES = 3_000_001;

/** Uses all services of a session; what comes back is what went. */
async function useAll(client: ServiceClients, { root }: System): Promise<void> {
  const file = join(root, "file");
  await randomFile(file, FILE_BYTES);
  const using = useServices(client, { file, name: "put", copy: join(root, "copy") });
  const { put, got } = await client.session.during(using);
  assertEquals(got, put);
}

function rdmaOf({ session: { agreed } }: ServiceClients) {
  assert(agreed.transport === "rdma");
  return agreed;
}

verbsTest(
  "with a client whose processor lacks AES all of a session is sealed with ChaCha20-Poly1305",
  async () => {
    await using system = await System.start({ seal: "required" });
    const seals = preferredCiphers(false);
    await using client = await OwnClient.open(system.address, authority, { seals });
    assertEquals(rdmaOf(client).choices.seal, "chacha20-poly1305");
    await useAll(client, system);
  },
);

/** Few enough that every channel of {@linkcode useAll} has several keys. */
const low: readonly [by: string, limits: KeyLimits][] = [
  ["records", { records: 2, bytes: Infinity }],
  ["bytes", { records: Infinity, bytes: 20_000 }],
];

/** A client with these limits. */
function openLimited(system: System, limits: KeyLimits): Promise<OwnClient> {
  return OwnClient.open(system.address, authority, {
    openDataPath: (...made) => new LocalDataPath(...made, { sealLimits: limits }),
  });
}

for (const [by, limits] of low) {
  verbsTest(
    `a session goes on where keys are replaced by ${by} all the time, also amid a message and a file`,
    async () => {
      await using system = await System.start({ seal: "required", sealLimits: limits });
      await using client = await openLimited(system, limits);
      await useAll(client, system);
    },
  );

  verbsTest(`a peer that replaces no key by ${by} is found out by the next record`, async () => {
    await using system = await System.start({ seal: "required", sealLimits: limits });
    await using client = await openLimited(system, keyLimits);
    const asking = client.messages.ask("ECHO", new Uint8Array(100_000));
    const ended = system.sessionEnded("record_forged");
    await deadline(assertRejects(() => client.session.during(asking)), 5000);
    await ended;
  });
}

/** Packets that each side sends in a conversation that is the same each time. */
async function packetsOf(limits: KeyLimits): Promise<Record<"client" | "server", number>> {
  const paths: QueuePairPath[] = [];
  const noted = <P extends QueuePairPath>(path: P) => (paths.push(path), path);
  await using system = await System.start({
    seal: "required",
    sealLimits: limits,
    dataPath: noted,
  });
  await using client = await OwnClient.open(system.address, authority, {
    openDataPath: (...made) => noted(new LocalDataPath(...made, { sealLimits: limits })),
  });
  const { local, remote } = rdmaOf(client);
  for (let asked = 0; asked < 40; asked++) {
    await client.session.during(client.messages.ask("ECHO", new Uint8Array(asked)));
  }
  const ends = await Promise.all(paths.map((path) => path.close()));
  const sent = (end: typeof local) =>
    psnDistance(
      end.psn,
      ends.find(({ queuePair }) => queuePair?.qpn === end.qpn)!.queuePair!.sqPsn,
    );
  return { client: sent(local), server: sent(remote) };
}

verbsTest("to replace keys takes no message", async () => {
  const kept = await packetsOf(keyLimits);
  assert(kept.client >= 40 && kept.server >= 40, JSON.stringify(kept));
  for (const [, limits] of low) assertEquals(await packetsOf(limits), kept);
});
