import { assert, assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  ClientExchange,
  type RandomBytes,
  ServerExchange,
  type Step,
} from "../../lib/control/exchange.ts";
import { type FrameName, FrameType, makeFrame } from "../../lib/control/frame.ts";
import {
  type Choices,
  decode,
  encode,
  type Message,
  type QueuePairNumbers,
  type Transport,
  type Welcome,
} from "../../lib/control/messages.ts";
import { IntegrityError, ProtocolError, RdmaError, RefusedError } from "../../lib/errors.ts";

const hello: ConstructorParameters<typeof ClientExchange>[0] = {
  offers: {
    transports: ["rdma"],
    providers: ["verbs"],
    connect: ["tls"],
    seal: ["off"],
    services: ["messages"],
  },
  agent: "test",
};

type Conditions<T extends Transport = Transport> = Pick<Welcome, "limits"> & {
  readonly choices: Extract<Choices, { readonly transport: T }>;
};

const conditions: Conditions<"rdma"> = {
  choices: {
    transport: "rdma",
    provider: "verbs",
    connect: "tls",
    seal: "off",
    services: ["messages"],
  },
  limits: { messageBytes: 65536, registeredBytes: 65536, idleSeconds: 30 },
};

const streamHello: typeof hello = {
  offers: { transports: ["ktls"], services: ["messages"] },
  agent: "test",
};

const streamConditions: Conditions<"ktls"> = {
  ...conditions,
  choices: { transport: "ktls", services: ["messages"] },
};

function numbers(qpn: number, psn: number): QueuePairNumbers {
  return {
    epoch: 0,
    qpn,
    psn,
    gid: "::ffff:10.9.0.1",
    gidType: "RoCE v2",
    lid: 0,
    mtu: 4096,
    maxRdAtomic: 16,
    maxDestRdAtomic: 4,
    receives: 32,
  };
}

const clientNumbers: QueuePairNumbers = { ...numbers(17, 0x123456), mtu: 1024 };
const serverNumbers: QueuePairNumbers = { ...numbers(18, 0xabcdef), maxRdAtomic: 2 };

/** Random bytes that are the same in each run. */
function counter(seed: number): RandomBytes {
  return (length) => new Uint8Array(length).map(() => seed++);
}

type Side = ClientExchange | ServerExchange;

/** Runs both sides against each other and returns what each was asked to do. */
function converse(
  client: ClientExchange,
  server: ServerExchange,
  granted: Conditions = conditions,
): { client: Step[]; server: Step[] } {
  const done = { client: [] as Step[], server: [] as Step[] };
  const queue: [Side, Step][] = client.start().map((step) => [client, step]);
  const later = (side: Side, steps: Step[]) =>
    queue.push(...steps.map((s): [Side, Step] => [side, s]));
  for (let next = queue.shift(); next; next = queue.shift()) {
    const [side, step] = next;
    const other = side === client ? server : client;
    (side === client ? done.client : done.server).push(step);
    if (step.do === "send") later(other, other.receive(step.frame));
    else if (step.do === "admit") later(server, server.admitted(granted));
    else if (step.do === "allocate") {
      later(side, side.allocated(side === client ? clientNumbers : serverNumbers));
    } else if (step.do === "connect") later(side, side.connected());
    else if (step.do === "join") later(side, side.joined());
    else if (step.do === "prove") later(side, side.proved());
  }
  return done;
}

function step<K extends Step["do"]>(steps: Step[], name: K): Step & { do: K } {
  return steps.find((candidate) => candidate.do === name) as Step & { do: K };
}

Deno.test("the exchange goes through its steps in the order of the diagram", () => {
  const client = new ClientExchange(hello);
  const server = new ServerExchange();
  const done = converse(client, server);
  const names = (steps: Step[]) =>
    steps.map((s) => s.do === "send" ? decode(s.frame).name : s.do).join(" ");
  assertEquals(names(done.client), "HELLO SECRET allocate QP connect READY prove established");
  assertEquals(
    names(done.server),
    "admit WELCOME SECRET allocate QP connect READY prove established",
  );
  assertEquals([client.state, server.state], ["ESTABLISHED", "ESTABLISHED"]);
});

Deno.test("both sides connect with exactly the numbers of the other, and the smaller of the limits", () => {
  const done = converse(new ClientExchange(hello), new ServerExchange());
  const client = step(done.client, "connect");
  const server = step(done.server, "connect");
  assertEquals([client.local, client.remote], [clientNumbers, serverNumbers]);
  assertEquals([server.local, server.remote], [serverNumbers, clientNumbers]);
  assertEquals(client.path, { mtu: 1024, maxRdAtomic: 4, maxDestRdAtomic: 2 });
  assertEquals(server.path, { mtu: 1024, maxRdAtomic: 2, maxDestRdAtomic: 4 });
});

Deno.test("each side expects the proof that the other sends, and the two differ", () => {
  const done = converse(new ClientExchange(hello), new ServerExchange());
  const client = step(done.client, "prove");
  const server = step(done.server, "prove");
  assertEquals(client.own, server.expected);
  assertEquals(server.own, client.expected);
  assertNotEquals(client.own, client.expected);
  assertEquals(step(done.client, "connect").cmToken, step(done.server, "connect").cmToken);
});

Deno.test("proofs depend on both secrets and on the transcript", () => {
  const proof = (clientSeed: number, serverSeed: number, agent: string) =>
    step(
      converse(
        new ClientExchange({ ...hello, agent }, counter(clientSeed)),
        new ServerExchange(counter(serverSeed)),
      ).client,
      "prove",
    ).own.join();
  assertEquals(proof(1, 2, "a"), proof(1, 2, "a"));
  assertEquals(
    new Set([proof(1, 2, "a"), proof(3, 2, "a"), proof(1, 3, "a"), proof(1, 2, "b")]).size,
    4,
  );
});

const sealedHello: typeof hello = { ...hello, offers: { ...hello.offers, seal: ["aes-256-gcm"] } };
const sealedConditions: typeof conditions = {
  ...conditions,
  choices: { ...conditions.choices, seal: "aes-256-gcm" },
};

Deno.test("each side seals with the key that the other opens with, and the two keys differ", () => {
  const done = converse(new ClientExchange(sealedHello), new ServerExchange(), sealedConditions);
  const client = step(done.client, "connect").seal!;
  const server = step(done.server, "connect").seal!;
  assertEquals([client.own, client.peer], [server.peer, server.own]);
  assertNotEquals(client.own, client.peer);
  assertEquals([client.cipher, client.epoch, client.session.length], ["aes-256-gcm", 0, 16]);
  assertEquals(server.session, client.session);
  const proofs = step(done.client, "prove");
  for (const key of [client.own, client.peer]) {
    assertNotEquals(key, proofs.own);
    assertNotEquals(key, proofs.expected);
  }
});

Deno.test("there are no keys for what nobody seals", () => {
  const done = converse(new ClientExchange(hello), new ServerExchange());
  assertEquals(step(done.client, "connect").seal, undefined);
  assertEquals(step(done.server, "connect").seal, undefined);
});

Deno.test("a client that seals does not take a server's word that nothing has to be", () => {
  assertThrows(
    () => converse(new ClientExchange(sealedHello), new ServerExchange(), conditions),
    ProtocolError,
    "what was not offered",
  );
});

Deno.test("what a server found forged is a failure of integrity to the client too", () => {
  for (const code of ["record_forged", "record_replayed", "record_out_of_order"]) {
    const client = new ClientExchange(hello);
    client.start();
    const error = encode({ name: "ERROR", body: { code, text: "the sealed record 3" } });
    assertThrows(() => client.receive(error), IntegrityError, "the sealed record 3");
  }
});

Deno.test("secrets are wiped once the keys are derived", () => {
  const secrets: Uint8Array[] = [];
  const keep: RandomBytes = (length) => {
    const bytes = crypto.getRandomValues(new Uint8Array(length));
    secrets.push(bytes);
    return bytes;
  };
  converse(new ClientExchange(hello, keep), new ServerExchange());
  assert(secrets[0]!.every((byte) => byte === 0), "the first random bytes are the secret");
});

Deno.test("over a data connection no queue pair is made, and the server expects it before it welcomes", () => {
  const client = new ClientExchange(streamHello);
  const server = new ServerExchange();
  const done = converse(client, server, streamConditions);
  const names = (steps: Step[]) =>
    steps.map((s) => s.do === "send" ? decode(s.frame).name : s.do).join(" ");
  assertEquals(names(done.client), "HELLO SECRET link join READY established");
  assertEquals(names(done.server), "admit link WELCOME SECRET join READY established");
  assertEquals([client.state, server.state], ["ESTABLISHED", "ESTABLISHED"]);
});

Deno.test("data connections have tokens of their session, side and epoch", () => {
  const tokens = () => {
    const done = converse(new ClientExchange(streamHello), new ServerExchange(), streamConditions);
    return [step(done.client, "link").tokens, step(done.server, "link").tokens] as const;
  };
  const [client, server] = tokens();
  for (const epoch of [0, 1, 2 ** 32 - 1]) {
    server.check(epoch, client.own(epoch));
    client.check(epoch, server.own(epoch));
  }
  const [stranger] = tokens();
  const wrong = [client.own(0), server.own(1), stranger.own(1), new Uint8Array(32)];
  for (const token of wrong) {
    assertEquals(assertThrows(() => server.check(1, token), IntegrityError).code, "join_token");
  }
});

Deno.test("a server cannot choose a transport that the client did not offer", () => {
  const welcome = { version: 1, session: "A".repeat(22), nonce: btoa("n".repeat(32)) } as const;
  const offered = [[hello, streamConditions], [streamHello, conditions]] as const;
  for (const [offer, granted] of offered) {
    const client = new ClientExchange(offer);
    client.start();
    const frame = encode({ name: "WELCOME", body: { ...welcome, ...granted } });
    assertThrows(() => client.receive(frame), ProtocolError, "offered");
  }
});

Deno.test("who offers RDMA says how, and who does not says nothing of it", () => {
  const wrong: [Record<string, unknown>, string][] = [
    [{ ...hello.offers, transports: ["ktls"] }, "belong to"],
    [{ ...streamHello.offers, transports: ["rdma"] }, "belong to"],
    [{ ...hello.offers, transports: [] }, "transports"],
    [{ ...hello.offers, transports: ["tcp"] }, "transports"],
    [{ ...hello.offers, transports: undefined }, "transports"],
  ];
  for (const [offers, says] of wrong) {
    const body = { version: 1, nonce: btoa("n".repeat(32)), agent: "test", offers };
    const frame = makeFrame("HELLO", new TextEncoder().encode(JSON.stringify(body)));
    const error = assertThrows(() => serverIn("AWAIT_HELLO").receive(frame), ProtocolError);
    assertEquals(error.code, "schema");
    assert(error.message.includes(says), error.message);
  }
});

/** The server up to a state, and the client that brought it there. */
function serverIn(state: string): ServerExchange {
  const server = new ServerExchange();
  const client = new ClientExchange(hello);
  const queue: [Side, Step][] = client.start().map((s) => [client, s]);
  for (let next = queue.shift(); next && server.state !== state; next = queue.shift()) {
    const [side, s] = next;
    const other: Side = side === client ? server : client;
    const later = (target: Side, steps: Step[]) =>
      queue.push(...steps.map((made): [Side, Step] => [target, made]));
    if (s.do === "send") later(other, other.receive(s.frame));
    if (s.do === "admit") later(server, server.admitted(conditions));
    if (s.do === "allocate") {
      later(side, side.allocated(side === client ? clientNumbers : serverNumbers));
    }
    if (s.do === "connect") later(side, side.connected());
  }
  assertEquals(server.state, state);
  return server;
}

const valid: Record<string, Message> = {
  HELLO: { name: "HELLO", body: { version: 1, nonce: btoa("n".repeat(32)), ...hello } },
  SECRET: { name: "SECRET", body: new Uint8Array(32) },
  QP: { name: "QP", body: clientNumbers },
  READY: { name: "READY", body: { epoch: 0 } },
  PING: { name: "PING", body: { id: 1 } },
  PONG: { name: "PONG", body: { id: 1 } },
  REQUEST: { name: "REQUEST", body: { id: 1, service: "files", body: {} } },
  REPLY: { name: "REPLY", body: { id: 1 } },
  REQUEUE: { name: "REQUEUE", body: { epoch: 1, reason: "" } },
  BYE: { name: "BYE", body: {} },
};

const turns = {
  AWAIT_HELLO: "HELLO",
  AWAIT_SECRET: "SECRET",
  AWAIT_QP: "QP",
  AWAIT_READY: "READY",
};

for (const [state, expected] of Object.entries(turns)) {
  Deno.test(`a server in ${state} takes ${expected} and refuses every other message`, () => {
    for (const [name, message] of Object.entries(valid)) {
      const server = serverIn(state);
      if (name === expected) server.receive(encode(message));
      else {
        const error = assertThrows(() => server.receive(encode(message)), ProtocolError);
        assertEquals([error.code, server.state], ["out_of_turn", state]);
      }
    }
  });
}

Deno.test("an ERROR ends the exchange in any state, with its reason", () => {
  for (const state of Object.keys(turns)) {
    const error = assertThrows(
      () => serverIn(state).receive(encode({ name: "ERROR", body: { code: "proof", text: "?" } })),
      ProtocolError,
      "proof: ?",
    );
    assertEquals(error.code, "client_error", "a client does not choose the server's words");
  }
  const client = new ClientExchange(hello);
  client.start();
  const refused = encode({ name: "ERROR", body: { code: "full", text: "no room" } });
  assertEquals(assertThrows(() => client.receive(refused), RefusedError).code, "full");
});

Deno.test("a server cannot choose what the client did not offer", () => {
  const client = new ClientExchange(hello);
  client.start();
  const welcome: Welcome = {
    version: 1,
    session: "A".repeat(22),
    nonce: btoa("n".repeat(32)),
    ...conditions,
    choices: { ...conditions.choices, connect: "cm" },
  };
  assertThrows(
    () => client.receive(encode({ name: "WELCOME", body: welcome })),
    ProtocolError,
    "offered",
  );
});

Deno.test("QP messages with numbers out of range are refused by field", () => {
  const wrong: [string, Record<string, unknown>][] = [
    ["psn", { psn: 2 ** 24 }],
    ["psn", { psn: -1 }],
    ["psn", { psn: 1.5 }],
    ["qpn", { qpn: 2 ** 24 }],
    ["qpn", { qpn: 1 }],
    ["gid", { gid: "10.0.0.1" }],
    ["gid", { gid: "fe80::1%eth0" }],
    ["gid", { gid: "ff02::1" }],
    ["gid", { gid: "::ffff:255.255.255.255" }],
    ["gid", { gid: "::" }],
    ["udpPort", { udpPort: 0 }],
    ["mtu", { mtu: 1500 }],
    ["receives", { receives: 0 }],
    ["lid", { lid: 65536 }],
    ["extra", { extra: 1 }],
  ];
  for (const [field, change] of wrong) {
    const body = new TextEncoder().encode(JSON.stringify({ ...clientNumbers, ...change }));
    const error = assertThrows(
      () => serverIn("AWAIT_QP").receive(makeFrame("QP", body)),
      ProtocolError,
    );
    assertEquals(error.code, "schema");
    assert(error.message.includes(field), error.message);
  }
});

Deno.test("a server refuses a queue pair that it cannot reach, before it brings its own up", () => {
  const remote = { ...clientNumbers, gid: "fd09::2" };
  const server = serverIn("AWAIT_QP");
  const error = assertThrows(() => server.receive(encode({ name: "QP", body: remote })), RdmaError);
  assertEquals(error.code, "gid_family");
});

/** The client that has sent its QP, to a server that uses the embedded provider. */
function clientOfEmbedded(): ClientExchange {
  const client = new ClientExchange(hello);
  client.start();
  const server = new ServerExchange();
  for (const name of ["HELLO", "SECRET"]) server.receive(encode(valid[name]!));
  const choices = { ...conditions.choices, provider: "roce" as const };
  for (const step of server.admitted({ ...conditions, choices })) {
    if (step.do === "send") client.receive(step.frame);
  }
  client.allocated(clientNumbers);
  return client;
}

Deno.test("a client with a device meets an embedded server, on the one port that it can send to", () => {
  const answer = (udpPort: number) =>
    clientOfEmbedded().receive(encode({ name: "QP", body: { ...serverNumbers, udpPort } }));
  assertEquals(step(answer(4791), "connect").remote.udpPort, 4791);
  assertEquals(assertThrows(() => answer(40000), RdmaError).code, "udp_port_taken");
});

Deno.test("a client offers one provider, the one that it uses", () => {
  const providers = [[], ["verbs", "roce"], ["tcp"]];
  for (const offered of providers) {
    const body = { version: 1, nonce: btoa("n".repeat(32)), ...hello };
    const offers = { ...hello.offers, providers: offered };
    const frame = makeFrame("HELLO", new TextEncoder().encode(JSON.stringify({ ...body, offers })));
    const error = assertThrows(() => serverIn("AWAIT_HELLO").receive(frame), ProtocolError);
    assert(error.message.includes("providers"), error.message);
  }
});

Deno.test("whatever bytes a frame carries, the exchange ends with a named error or goes on", () => {
  const names = Object.keys(FrameType) as FrameName[];
  fc.assert(fc.property(
    fc.constantFrom(...Object.keys(turns)),
    fc.constantFrom(...names),
    fc.oneof(
      fc.uint8Array({ maxLength: 200 }),
      fc.json().map((text) => new TextEncoder().encode(text)),
    ),
    (state, name, body) => {
      const server = serverIn(state);
      try {
        server.receive(makeFrame(name, body));
      } catch (error) {
        assert(error instanceof ProtocolError || error instanceof RefusedError, String(error));
      }
    },
  ));
});
