import { assert, assertEquals, assertRejects } from "@std/assert";
import type { ServerExchange, Step } from "../../lib/control/exchange.ts";
import { encode } from "../../lib/control/messages.ts";
import { QueuePairError, VerbsealError } from "../../lib/errors.ts";
import type { ControlConnection } from "../../lib/session/control_connection.ts";
import {
  ReplaceablePath,
  type ReplaceablePathOptions,
} from "../../lib/session/replaceable_path.ts";
import type { SessionQueuePair } from "../../lib/session/session_queue_pair.ts";

function pathOf(
  exchange: object,
  queuePair: object,
  turn?: ReplaceablePathOptions["turn"],
): ReplaceablePath {
  return new ReplaceablePath({
    exchange: exchange as ServerExchange,
    connection: {} as ControlConnection,
    queuePair: queuePair as SessionQueuePair,
    seconds: 10,
    perMinute: 10,
    turn,
  });
}

Deno.test("the keys of a queue pair that fails before it is connected are wiped", async () => {
  const seal = {
    ...{ cipher: "aes-256-gcm", session: new Uint8Array(16), epoch: 1 },
    own: new Uint8Array(32).fill(1),
    peer: new Uint8Array(32).fill(2),
  };
  const overtaken = Promise.withResolvers<void>();
  const exchange = {
    state: "ALLOCATING",
    epoch: 1,
    receive: () => [{ do: "allocate" }, { do: "connect", seal }] as unknown as Step[],
    requeue() {
      overtaken.resolve();
      return [];
    },
    [Symbol.dispose]() {},
  };
  const queuePair = {
    path: { failure: new Promise(() => {}) },
    allocate: () => Promise.reject(new QueuePairError("queue_pair_failed", "it failed")),
    close: () => Promise.resolve(),
  };
  const path = pathOf(exchange, queuePair);
  const running = path.run({});
  running.catch(() => {}); // it ends with the path
  path.take(encode({ name: "PING", body: { id: 1 } }));
  await overtaken.promise;
  assertEquals([...seal.own, ...seal.peer].filter((octet) => octet !== 0), []);
  await path.close();
});

Deno.test("a path that is closed while its queue pair's turn comes allocates no other", async () => {
  let allocated = false;
  const exchange = {
    state: "ALLOCATING",
    epoch: 1,
    receive: () => [{ do: "allocate" }] as unknown as Step[],
    [Symbol.dispose]() {},
  };
  const queuePair = {
    path: { failure: new Promise(() => {}) },
    allocate: () => allocated = true,
    close: () => Promise.resolve(),
  };
  const turn = Promise.withResolvers<void>();
  const asked = Promise.withResolvers<void>();
  const path = pathOf(exchange, queuePair, () => {
    asked.resolve();
    return turn.promise;
  });
  const running = path.run({});
  path.take(encode({ name: "PING", body: { id: 1 } }));
  await asked.promise;
  turn.resolve();
  const closed = path.close();
  await assertRejects(() => running, VerbsealError, "the session has ended");
  await closed;
  await new Promise((resolve) => setTimeout(resolve));
  assert(!allocated);
});
