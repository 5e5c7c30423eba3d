import { assert, assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { ClientExchange, ServerExchange, type Step } from "../../lib/control/exchange.ts";
import type { Frame } from "../../lib/control/frame.ts";
import { decode, encode, type QueuePairNumbers } from "../../lib/control/messages.ts";
import { ProtocolError } from "../../lib/errors.ts";

const rdma = {
  hello: {
    offers: {
      transports: ["rdma"],
      providers: ["verbs"],
      connect: ["tls"],
      seal: ["off"],
      services: ["messages"],
    },
    agent: "test",
  },
  conditions: {
    choices: {
      transport: "rdma",
      provider: "verbs",
      connect: "tls",
      seal: "off",
      services: ["messages"],
    },
    limits: { messageBytes: 65536, registeredBytes: 65536, idleSeconds: 30 },
  },
} as const;

type Connect = Step & { do: "connect" };
type Prove = Step & { do: "prove" };

/** One side: does its steps in their order, and takes frames when there are none. */
class Side {
  readonly steps: Step[] = [];
  readonly arriving: Frame[] = [];
  readonly sent: string[] = [];
  readonly connects: Connect[] = [];
  readonly proofs: Prove[] = [];
  peer!: Side;
  #qpn: number;

  constructor(
    readonly exchange: ClientExchange | ServerExchange,
    firstQpn: number,
    private readonly step: number,
  ) {
    this.#qpn = firstQpn;
  }

  get isProving(): boolean {
    return this.steps[0]?.do === "prove";
  }

  /** Does what comes next; false when there is nothing to do. */
  act(): boolean {
    const [step] = this.steps;
    if (!step || (this.isProving && !this.#peerProves)) return this.#take();
    this.steps.shift();
    this.steps.push(...this.#perform(step));
    return true;
  }

  fail(): void {
    this.steps.splice(0, Infinity, ...this.exchange.requeue("ibv_wc_retry_exc_err"));
  }

  /** There is a queue pair, and all was said that had to be said before. */
  get canFail(): boolean {
    return this.steps.every(({ do: what }) => what === "connect" || what === "prove");
  }

  /** The peer has sent the proof that this side waits for. */
  get #peerProves(): boolean {
    const { expected } = this.steps[0] as Prove;
    return this.peer.proofs.some(({ own }) => own.join() === expected.join());
  }

  #take(): boolean {
    const frame = this.arriving.shift();
    if (!frame) return false;
    const steps = this.exchange.receive(frame);
    if (this.isProving && steps.length > 0) this.steps.length = 0;
    this.steps.push(...steps);
    if (this.isProving) this.proofs.push(this.steps[0] as Prove);
    return true;
  }

  #perform(step: Step): Step[] {
    const { exchange } = this;
    switch (step.do) {
      case "send":
        this.sent.push(decode(step.frame).name);
        this.peer.arriving.push(step.frame);
        return [];
      case "admit":
        return (exchange as ServerExchange).admitted(structuredClone(rdma.conditions) as never);
      case "allocate":
        return exchange.allocated(numbers(exchange.epoch, this.#qpn += this.step));
      case "connect":
        this.connects.push(step);
        return exchange.connected();
      case "prove":
        return exchange.proved();
      default:
        return [];
    }
  }
}

function numbers(epoch: number, qpn: number): QueuePairNumbers {
  const address = { gid: "::ffff:10.9.0.1", gidType: "RoCE v2", lid: 0, mtu: 4096 } as const;
  const reads = { maxRdAtomic: 16, maxDestRdAtomic: 16, receives: 32 };
  return { epoch, qpn, psn: 7 * qpn, ...address, ...reads };
}

/**
 * Both sides, established.
 *
 * @param step from a queue pair's number to the next one's
 */
function pair(step = 1): [client: Side, server: Side] {
  const client = new Side(new ClientExchange(structuredClone(rdma.hello) as never), 1000, step);
  const server = new Side(new ServerExchange(), 2000, step);
  client.peer = server;
  server.peer = client;
  client.steps.push(...(client.exchange as ClientExchange).start());
  settle(client, server);
  return [client, server];
}

function settle(client: Side, server: Side): void {
  while (client.act() || server.act());
}

/** Both are established with the same queue pairs, and know each other's proofs of that epoch. */
function assertTogether(client: Side, server: Side): void {
  const { epoch } = client.exchange;
  assertEquals([client.exchange.state, server.exchange.state], ["ESTABLISHED", "ESTABLISHED"]);
  assertEquals(server.exchange.epoch, epoch);
  const [ours, theirs] = [client.connects.at(-1)!, server.connects.at(-1)!];
  assertEquals([ours.local, ours.remote], [theirs.remote, theirs.local]);
  assertEquals([ours.local.epoch, ours.remote.epoch], [epoch, epoch]);
  assertEquals(client.proofs.at(-1)!.own, server.proofs.at(-1)!.expected);
}

for (const failing of ["client", "server"] as const) {
  Deno.test(`a queue pair that fails at the ${failing} is replaced by QP, READY and PROOF of the next epoch`, () => {
    const [client, server] = pair();
    const [one, other] = failing === "client" ? [client, server] : [server, client];
    one.sent.length = other.sent.length = 0;
    one.fail();
    assertEquals(one.steps.map((step) => step.do), ["send", "discard", "allocate"]);
    settle(client, server);
    assertEquals([one.sent, other.sent], [["REQUEUE", "QP", "READY"], ["QP", "READY"]]);
    assertTogether(client, server);
    assertEquals(client.exchange.epoch, 1);
  });
}

Deno.test("both sides may notice at once", () => {
  const [client, server] = pair();
  client.fail();
  server.fail();
  settle(client, server);
  assertTogether(client, server);
  assertEquals(client.exchange.epoch, 1);
});

Deno.test("whichever side fails how often and at whatever moment, both come together with keys of their own", () => {
  const moves = fc.array(
    fc.oneof(
      { arbitrary: fc.constantFrom("client acts", "server acts"), weight: 8 },
      { arbitrary: fc.constantFrom("client fails", "server fails"), weight: 1 },
    ),
    { maxLength: 80 },
  );
  fc.assert(fc.property(moves, (schedule) => {
    const [client, server] = pair();
    for (const move of schedule) {
      const side = move.startsWith("client") ? client : server;
      if (move.endsWith("acts")) side.act();
      else if (side.canFail) side.fail();
    }
    settle(client, server);
    assertTogether(client, server);
    const tokens = [...client.proofs, ...server.proofs].map(({ own }) => own.join());
    assertEquals(new Set(tokens).size, tokens.length, "no key comes twice");
  }));
});

Deno.test("an epoch has keys of its own even where both queue pairs have the numbers of the one before", () => {
  const [client, server] = pair(0);
  client.fail();
  settle(client, server);
  const [first, second] = client.connects;
  assertEquals(first!.local.qpn, second!.local.qpn);
  assertNotEquals(first!.cmToken, second!.cmToken);
  assertNotEquals(client.proofs[0]!.own, client.proofs[1]!.own);
});

const outOfTurn: [what: string, frame: Frame, code: string][] = [
  ["the present epoch", encode({ name: "REQUEUE", body: { epoch: 0, reason: "" } }), "epoch"],
  [
    "an epoch that is not next",
    encode({ name: "REQUEUE", body: { epoch: 2, reason: "" } }),
    "epoch",
  ],
  ["READY without REQUEUE", encode({ name: "READY", body: { epoch: 1 } }), "out_of_turn"],
  ["QP without REQUEUE", encode({ name: "QP", body: numbers(1, 1000) }), "out_of_turn"],
];

for (const [what, frame, code] of outOfTurn) {
  Deno.test(`${what} is refused in an established session`, () => {
    for (const { exchange } of pair()) {
      assertEquals(assertThrows(() => exchange.receive(frame), ProtocolError).code, code);
    }
  });
}

Deno.test("a QP of another epoch than the one that is due is refused", () => {
  const [, server] = pair();
  const requeue = encode({ name: "REQUEUE", body: { epoch: 1, reason: "" } });
  server.steps.push(...server.exchange.receive(requeue));
  while (server.steps.length > 0) server.act();
  const frame = encode({ name: "QP", body: numbers(2, 1000) });
  const refused = assertThrows(() => server.exchange.receive(frame), ProtocolError);
  assertEquals(refused.code, "epoch");
});

Deno.test("what the peer said before it saw a REQUEUE is passed by, and nothing after that", () => {
  const [client, server] = pair();
  client.fail();
  while (client.steps.length > 0) client.act();
  const stale = [
    encode({ name: "READY", body: { epoch: 0 } }),
    encode({ name: "REQUEUE", body: { epoch: 1, reason: "" } }),
  ];
  for (const frame of stale) assertEquals(client.exchange.receive(frame), []);
  for (const frame of stale) assertThrows(() => client.exchange.receive(frame), ProtocolError);
  settle(client, server);
  assertTogether(client, server);
});

Deno.test("no queue pair is replaced before the first one is established", () => {
  const client = new ClientExchange(structuredClone(rdma.hello) as never);
  assertThrows(() => client.requeue("ibv_wc_retry_exc_err"), Error, "START");
});

Deno.test("what keys are made of is wiped with the exchange", () => {
  const [client, server] = pair();
  client.exchange[Symbol.dispose]();
  client.fail();
  settle(client, server);
  assertNotEquals(client.proofs.at(-1)!.own, server.proofs.at(-1)!.expected);
  assert(client.connects.length === 2);
});
