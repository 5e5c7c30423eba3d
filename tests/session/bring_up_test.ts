import { assertEquals, assertRejects } from "@std/assert";
import { IntegrityError } from "../../lib/errors.ts";
import type { QueuePair, QueuePairAttributes, QueuePairStatus } from "../../lib/rdma/queue_pair.ts";
import { bringUp } from "../../lib/session/bring_up.ts";
import type { ConnectOrder, PortChoice } from "../../lib/session/data_path.ts";

const port: PortChoice = {
  provider: "verbs",
  device: "device",
  room: 1024,
  port: 1,
  gid: "::ffff:10.9.0.1",
  gidIndex: 1,
  gidType: "RoCE v2",
  lid: 0,
  mtu: 4096,
};

const numbers = {
  epoch: 0,
  gid: port.gid,
  gidType: port.gidType,
  lid: 0,
  mtu: 4096 as const,
  maxRdAtomic: 1,
  maxDestRdAtomic: 1,
  receives: 32,
};

const order: ConnectOrder = {
  local: { ...numbers, qpn: 17, psn: 0x111111 },
  remote: { ...numbers, qpn: 18, psn: 0x222222 },
  path: { mtu: 1024, maxRdAtomic: 1, maxDestRdAtomic: 1 },
};

/** A device that keeps what it is told, but for what it lies about: real ones cannot be made to. */
function device(lies: Partial<QueuePairStatus>): { pair: QueuePair; told: QueuePairAttributes[] } {
  const told: QueuePairAttributes[] = [];
  const known = () => Object.assign({}, ...told) as QueuePairAttributes;
  const pair = {
    modify: (attributes: QueuePairAttributes) => void told.push(attributes),
    query: () => {
      const { sqPsn = 0, rqPsn = 0, destQpn = 0 } = known();
      return { state: "RTS", sqPsn, rqPsn, destQpn, ...lies };
    },
  };
  return { pair: pair as unknown as QueuePair, told };
}

Deno.test("a queue pair is brought up with exactly the numbers agreed, receives posted in INIT", async () => {
  const { pair, told } = device({});
  let postedAfter: unknown;
  await bringUp(pair, port, order, () => postedAfter = told.at(-1)?.state);
  assertEquals(told.map(({ state }) => state), ["INIT", "RTR", "RTS"]);
  assertEquals(postedAfter, "INIT");
  assertEquals([told[1]?.rqPsn, told[1]?.destQpn, told[1]?.pathMtu], [0x222222, 18, 1024]);
  assertEquals(told[2]?.sqPsn, 0x111111);
});

Deno.test("the transition to RTR, which may wait for the network, is made aside where it can be", async () => {
  const { pair, told } = device({});
  const answered = Promise.withResolvers<void>();
  pair.modifyAside = async (attributes) => {
    await answered.promise;
    pair.modify(attributes);
  };
  const bringing = bringUp(pair, port, order, () => {});
  assertEquals(told.map(({ state }) => state), ["INIT"]);
  answered.resolve();
  await bringing;
  assertEquals(told.map(({ state }) => state), ["INIT", "RTR", "RTS"]);
});

Deno.test("the peer's UDP port is part of its address where it has told one", async () => {
  const portTold = async (udpPort?: number) => {
    const { pair, told } = device({});
    const remote = { ...order.remote, ...(udpPort === undefined ? {} : { udpPort }) };
    await bringUp(pair, port, { ...order, remote }, () => {});
    return told[1]?.addressVector?.udpPort;
  };
  assertEquals([await portTold(), await portTold(40000)], [undefined, 40000]);
});

for (const name of ["sqPsn", "rqPsn", "destQpn"] as const) {
  Deno.test(`a device that reports another ${name} than agreed is refused`, async () => {
    const { pair } = device({ [name]: 0x333333 });
    const bringing = bringUp(pair, port, order, () => {});
    const error = await assertRejects(() => bringing, IntegrityError, name);
    assertEquals(error.exitCode, 6);
  });
}

Deno.test("with the connection manager the PSNs are still those agreed in TLS", async () => {
  const { pair, told } = device({});
  const managed = {
    init: { port: 1, pkeyIndex: 0 },
    rtr: { destQpn: 18, rqPsn: 0x999999, timeout: 1 },
    rts: { sqPsn: 0x999999 },
  };
  await bringUp(pair, port, { ...order, managed }, () => {});
  assertEquals([told[1]?.rqPsn, told[2]?.sqPsn], [0x222222, 0x111111]);
});
