import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import type { SealKeys } from "../../lib/control/keys.ts";
import { IntegrityError, RdmaError } from "../../lib/errors.ts";
import { openDevice } from "../../lib/rdma/provider.ts";
import { provider } from "../provider.ts";
import { verbsTest } from "../rdma/resources.ts";
import { clientKeys, opened, sealed, serverKeys } from "../security/sealed_pair.ts";
import { DataPathPair, PathEnd } from "./data_path_pair.ts";

function isWiped({ own, peer }: SealKeys): boolean {
  return [...own, ...peer].every((octet) => octet === 0);
}

verbsTest(
  "two data paths with the same keys understand each other, and keep no others",
  async () => {
    const seal = { near: serverKeys(), far: clientKeys() };
    await using pair = await DataPathPair.create(undefined, seal);
    assertEquals([isWiped(seal.near), isWiped(seal.far)], [true, true]);
    using near = pair.near.access.seal!.channel("memory", 1);
    using far = pair.far.access.seal!.channel("memory", 1);
    assertEquals(opened(near, sealed(far, Uint8Array.of(1, 2, 3))), Uint8Array.of(1, 2, 3));
  },
);

verbsTest(
  "a data path that does not have its peer's keys ends before the proof counts",
  async () => {
    const stranger = clientKeys({ own: new Uint8Array(32).fill(9) });
    const seal = { near: serverKeys(), far: stranger };
    const error = await assertRejects(() => DataPathPair.create(undefined, seal), IntegrityError);
    assertEquals(error.code, "record_forged");
  },
);

verbsTest(
  "a record that does not open ends the data path, whatever its service makes of it",
  async () => {
    await using pair = await DataPathPair.create(undefined, {
      near: serverKeys(),
      far: clientKeys(),
    });
    using channel = pair.near.access.seal!.channel("memory", 1);
    assertThrows(() => opened(channel, new Uint8Array(64)), IntegrityError);
    assertEquals((await pair.near.path.failure).code, "record_forged");
  },
);

verbsTest("there is nothing to seal with after the end, nor where nobody seals", async () => {
  const pair = await DataPathPair.create(undefined, { near: serverKeys(), far: clientKeys() });
  const { seal } = pair.near.access;
  await pair[Symbol.asyncDispose]();
  assertThrows(() => seal!.channel("memory", 1), RdmaError, "ended");
  await using unsealed = await DataPathPair.create();
  assertEquals(unsealed.near.access.seal, undefined);
});

verbsTest("keys are wiped also when there is no queue pair any more to bring up", async () => {
  using device = openDevice(provider.device);
  const end = new PathEnd(device, "client");
  const local = await end.numbers();
  await end.path.close();
  const keys = clientKeys();
  const limits = { mtu: 1024, maxRdAtomic: 1, maxDestRdAtomic: 1 } as const;
  const order = { local, remote: local, path: limits, seal: keys };
  await assertRejects(() => end.path.connect(order), RdmaError, "ended");
  assertEquals(isWiped(keys), true);
});
