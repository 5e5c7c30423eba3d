import { assert, assertEquals } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { isDeepStrictEqual } from "node:util";
import type { FrameName } from "../../lib/control/frame.ts";
import { FrameType } from "../../lib/control/frame.ts";
import { VerbsDevice } from "../../lib/rdma/verbs/device.ts";
import { Opcode } from "../../lib/rdma/work_request.ts";
import { encodeBuffer, encodeChunk } from "../../lib/services/file_protocol.ts";
import { Client } from "../../lib/services/client.ts";
import { FRAGMENT_BYTES } from "../../lib/session/messenger.ts";
import { MessageKind } from "../../lib/session/service.ts";
import {
  HostileClient,
  tcpConnection,
  WINDOW_BUFFER_BYTES,
  WINDOW_BUFFERS,
} from "./hostile_client.ts";
import {
  eventually,
  guestAddress,
  type LogLine,
  rdmaResources,
  RunningServer,
  Workspace,
} from "./program.ts";
import { rxe, verbsTest } from "./resources.ts";

/** Seconds; the guest's two processors are emulated and take about one for an exchange. */
const HANDSHAKE = 4;
const IDLE = 6;

/** One server for all attacks, and one client that means well and must notice none of them. */
class Scene implements AsyncDisposable {
  static current: Scene;

  private constructor(
    readonly workspace: Workspace,
    readonly authority: string,
    readonly server: RunningServer,
    readonly device: VerbsDevice,
    readonly honest: Client,
    /** What the kernel holds with the honest client alone. */
    readonly resources: Record<string, number>,
    private readonly stack: AsyncDisposableStack,
  ) {}

  static async create(): Promise<Scene> {
    await using building = new AsyncDisposableStack();
    const workspace = building.use(await Workspace.create());
    const authority = await Deno.readTextFile(workspace.file("certs/ca.pem"));
    const limits = ["--handshake-timeout", `${HANDSHAKE}s`, "--idle-timeout", `${IDLE}s`];
    const server = building.use(await RunningServer.start(workspace, limits));
    const device = building.use(new VerbsDevice(rxe));
    const honest = building.use(
      await Client.open({
        server: { hostname: guestAddress, port: server.port },
        trust: { authorities: [authority] },
        device: "auto",
        connect: "tls",
        cmPort: 4791,
        handshakeSeconds: 10,
        agent: "honest",
      }),
    );
    const resources = await rdmaResources();
    const stack = building.move();
    return new Scene(workspace, authority, server, device, honest, resources, stack);
  }

  connect(alpnProtocols?: string[]): Promise<HostileClient> {
    return HostileClient.connect(this.server, this.authority, this.device, alpnProtocols);
  }

  /** Log lines on the end of this client's session. */
  ends(peer: string): LogLine[] {
    return this.server.log.filter((line) => isEnd(line) && line.peer === peer);
  }

  /** The session's one log line. */
  async ended(peer: string, milliseconds = 5000): Promise<LogLine> {
    const line = this.server.logged((line) => isEnd(line) && line.peer === peer);
    return await deadline(line, milliseconds);
  }

  /** Nothing is left of others, and the honest client is served as if nothing had happened. */
  async unharmed(): Promise<void> {
    const back = async () => isDeepStrictEqual(await rdmaResources(), this.resources);
    // The comparison tells more than the wait.
    await eventually("resources are back", back, 1000).catch(() => {});
    assertEquals(await rdmaResources(), this.resources);
    const body = crypto.getRandomValues(new Uint8Array(20_000));
    const { session, messages } = this.honest;
    assertEquals(await deadline(session.during(messages.ask("ECHO", body)), 3000), body);
  }

  filesLeft(): string[] {
    return [...Deno.readDirSync(this.workspace.root)].map(({ name }) => name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stack.disposeAsync();
  }
}

function isEnd({ message }: LogLine): boolean {
  return message === "session ended";
}

Deno.test.beforeAll(async () => {
  Scene.current = await Scene.create();
});

Deno.test.afterAll(async () => {
  await Scene.current[Symbol.asyncDispose]();
});

/** An attack after the TLS handshake: the server ends that session, for this reason, and no other. */
function attackTest(
  name: string,
  reason: string,
  attack: (client: HostileClient, scene: Scene) => Promise<void>,
): void {
  verbsTest(`${name}: ${reason}`, async () => {
    const scene = Scene.current;
    using client = await scene.connect();
    await deadline(attack(client, scene), 10_000);
    assertEquals((await scene.ended(client.peer)).reason, reason);
    client.dropQueuePair();
    await scene.unharmed();
    assertEquals(scene.ends(client.peer).length, 1);
  });
}

function frame(type: number, length: number, body: number[] = []): Uint8Array {
  const header = new DataView(new ArrayBuffer(8));
  header.setUint32(0, type);
  header.setUint32(4, length);
  return new Uint8Array([...new Uint8Array(header.buffer), ...body]);
}

// Before the session.

verbsTest("garbage instead of TLS: not_tls", async () => {
  const scene = Scene.current;
  const { tcp, peer } = await tcpConnection(scene.server.port);
  await tcp.write(new TextEncoder().encode("GET / HTTP/1.1\r\nHost: verbseal\r\n\r\n"));
  assertEquals((await scene.ended(peer)).reason, "not_tls");
  tcp.close();
  await scene.unharmed();
});

verbsTest("a client that hangs up in the TLS handshake: connection_lost", async () => {
  const scene = Scene.current;
  const { tcp, peer } = await tcpConnection(scene.server.port);
  tcp.close();
  assertEquals((await scene.ended(peer)).reason, "connection_lost");
  await scene.unharmed();
});

verbsTest("a client of another application protocol, or of none: other_protocol", async () => {
  const scene = Scene.current;
  using client = await scene.connect([]);
  assertEquals((await scene.ended(client.peer)).reason, "other_protocol");
  await scene.unharmed();
});

verbsTest("clients that stop at any step of the exchange: exchange_timeout", async () => {
  const scene = Scene.current;
  const { tcp, peer } = await tcpConnection(scene.server.port);
  const steps: ((client: HostileClient) => Promise<void>)[] = [
    () => Promise.resolve(),
    (client) => client.writeBytes(frame(FrameType.HELLO, 100, [1, 2, 3])),
    (client) => client.enter(),
    async (client) => {
      await client.enter();
      await client.offerQueuePair();
    },
    (client) => client.reachFirstMessage(),
  ];
  const clients = await Promise.all(steps.map(() => scene.connect()));
  await Promise.all(steps.map((reach, index) => reach(clients[index]!)));
  for (const stopped of [peer, ...clients.map((client) => client.peer)]) {
    const line = await scene.ended(stopped, (HANDSHAKE + 2) * 1000);
    assertEquals(line.reason, "exchange_timeout");
    assert(Number(line.seconds) < HANDSHAKE + 1, `${line.seconds} s`);
  }
  tcp.close();
  for (const client of clients) client.dropQueuePair();
  await scene.unharmed();
  for (const client of clients) client[Symbol.dispose]();
});

attackTest(
  "bytes that are no frame",
  "frame_type",
  (client) => client.writeBytes(crypto.getRandomValues(new Uint8Array(4096))),
);

attackTest(
  "a frame of 4 GiB",
  "frame_length",
  (client) => client.writeBytes(frame(FrameType.HELLO, 0xffff_ffff)),
);

attackTest("a frame of unknown type", "frame_type", (client) => client.writeBytes(frame(99, 0)));

attackTest(
  "a frame out of turn",
  "out_of_turn",
  (client) => client.send({ name: "PING", body: { id: 1 } }),
);

attackTest(
  "a HELLO that is no JSON",
  "schema",
  (client) => client.writeBytes(frame(FrameType.HELLO, 3, [123, 125, 125])),
);

attackTest(
  "a HELLO of another version",
  "schema",
  (client) => client.sendBody("HELLO", { version: 2 }),
);

attackTest(
  "a SECRET before HELLO",
  "out_of_turn",
  (client) => client.send({ name: "SECRET", body: new Uint8Array(32) }),
);

for (const name of Object.keys(FrameType) as FrameName[]) {
  if (name === "QP" || name === "ERROR") continue;
  attackTest(`${name} with a body of nonsense after WELCOME`, "schema", async (client) => {
    await client.enter();
    await client.sendBody(name, { nonsense: name });
  });
}

attackTest("an ERROR of the client's own", "client_error", async (client) => {
  await client.enter();
  await client.send({ name: "ERROR", body: { code: "gave_up", text: "enough" } });
});

const numbers: [what: string, lies: Record<string, unknown>, reason: string][] = [
  ["a QPN above 24 bits", { qpn: 2 ** 24 }, "schema"],
  ["a QPN of the port's own queue pairs", { qpn: 1 }, "schema"],
  ["a PSN above 24 bits", { psn: 2 ** 24 }, "schema"],
  ["a negative PSN", { psn: -1 }, "schema"],
  ["a GID in IPv4 notation", { gid: "10.9.0.1" }, "schema"],
  ["a GID with a zone", { gid: "fe80::1%v0" }, "schema"],
  ["an MTU between those that there are", { mtu: 1500 }, "schema"],
  ["no receives", { receives: 0 }, "schema"],
  ["a GID of another network", { gidType: "InfiniBand" }, "gid_type"],
  ["another epoch", { epoch: 1 }, "epoch"],
];

for (const [what, lies, reason] of numbers) {
  attackTest(`a QP message with ${what}`, reason, async (client) => {
    await client.enter();
    await client.offerQueuePair(lies);
  });
}

attackTest("a QP message with a GID that is nowhere", "transition_refused", async (client) => {
  await client.enter();
  await client.offerQueuePair({ gid: "2001:db8::1" });
});

attackTest("a READY of another epoch", "epoch", async (client) => {
  await client.enter();
  await client.offerQueuePair();
  await client.bringUp(7);
});

// The first message.

attackTest("a proof that is wrong", "proof", async (client) => {
  await client.reachFirstMessage();
  client.sendFragment({ kind: MessageKind.PROOF, payload: new Uint8Array(32) });
});

attackTest("a proof that is too short", "proof", async (client) => {
  await client.reachFirstMessage();
  client.sendFragment({ kind: MessageKind.PROOF });
});

attackTest("a question before the proof", "message_kind", async (client) => {
  await client.reachFirstMessage();
  client.sendFragment({ kind: MessageKind.ECHO, payload: new Uint8Array(32) });
});

// Messages of an established session.

const limit = 2 ** 20;
const fragments: [what: string, reason: string, send: (client: HostileClient) => void][] = [
  ["a second proof", "message_kind", (client) => client.sendFragment({ kind: MessageKind.PROOF })],
  ["an unknown kind of message", "message_kind", (client) => client.sendFragment({ kind: 250 })],
  [
    "a fragment without a header",
    "fragment",
    (client) => client.sendFragment({ kind: MessageKind.ECHO, bytes: 15 }),
  ],
  [
    "a message larger than the limit",
    "message_length",
    (client) => client.sendFragment({ kind: MessageKind.ECHO, last: false, total: limit + 1 }),
  ],
  [
    "a fragment that is larger than its message",
    "fragment",
    (client) =>
      client.sendFragment({ kind: MessageKind.ECHO, total: 1, payload: new Uint8Array(2) }),
  ],
  [
    "a fragment that ends before its message",
    "fragment",
    (client) =>
      client.sendFragment({ kind: MessageKind.ECHO, total: 100, payload: new Uint8Array(2) }),
  ],
  [
    "a fragment of nothing",
    "fragment",
    (client) => client.sendFragment({ kind: MessageKind.ECHO, total: 100, last: false }),
  ],
  ["a message that begins in its middle", "fragment", (client) =>
    client.sendFragment({
      kind: MessageKind.ECHO,
      total: 10,
      offset: 5,
      payload: new Uint8Array(5),
    })],
  ["two messages mixed up", "fragment", (client) => {
    const part = { kind: MessageKind.ECHO, last: false, total: 9, payload: new Uint8Array(3) };
    client.sendFragment({ ...part, id: 1 });
    client.sendFragment({ ...part, id: 2, offset: 3 });
  }],
  [
    "credits that it does not have to give",
    "credits",
    (client) => client.sendFragment({ kind: MessageKind.ECHO, credits: 60_000 }),
  ],
  [
    "a SEND larger than any receive buffer",
    "ibv_wc_loc_qp_op_err",
    (client) => client.sendFragment({ kind: MessageKind.ECHO, bytes: FRAGMENT_BYTES + 1 }),
  ],
];

for (const [what, reason, send] of fragments) {
  attackTest(what, reason, async (client) => {
    await client.establish();
    send(client);
  });
}

// Control frames of an established session.

attackTest("a REPLY to no request", "reply", async (client) => {
  await client.establish();
  await client.send({ name: "REPLY", body: { id: 5 } });
});

attackTest("the exchange once more", "out_of_turn", async (client) => {
  await client.establish();
  await client.send({ name: "READY", body: { epoch: 0 } });
});

attackTest("more requests at once than are allowed", "requests", async (client) => {
  await client.establish();
  const { window } = client;
  const put = { operation: "put", transfer: 1, path: "many", size: "10", window };
  for (let count = 0; count < 30; count++) await client.request("files", put);
});

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

// Other clients' and the server's memory.

attackTest("a WRITE to memory that nobody lent", "ibv_wc_wr_flush_err", async (client) => {
  await client.establish();
  client.reach(Opcode.WRITE, { address: 0x7000_0000_0000, rkey: 0x1234 });
  assertEquals((await client.failure).code, "ibv_wc_rem_access_err");
  client[Symbol.dispose]();
});

attackTest("a window that is not the client's memory", "ibv_wc_rem_access_err", async (client) => {
  await client.establish();
  const window = { ...client.window, rkey: client.window.rkey ^ 0xff };
  const size = WINDOW_BUFFER_BYTES;
  await client.request("files", {
    operation: "put",
    transfer: 1,
    path: "lie",
    size: `${size}`,
    window,
  });
  await client.message(MessageKind.FILE_BUFFER_FREE);
  const payload = encodeChunk({ buffer: 0, length: size, offset: 0, size });
  client.sendFragment({ kind: MessageKind.FILE_CHUNK, payload });
});

// Transfers.

const size = 10 * WINDOW_BUFFER_BYTES;

/** A session with a put that the server has begun. */
async function beginPut(client: HostileClient): Promise<void> {
  await client.establish();
  const { window } = client;
  await client.request("files", {
    operation: "put",
    transfer: 1,
    path: "half",
    size: `${size}`,
    window,
  });
  for (let buffer = 0; buffer < WINDOW_BUFFERS; buffer++) {
    await client.message(MessageKind.FILE_BUFFER_FREE);
  }
}

const firstChunk = { buffer: 0, length: WINDOW_BUFFER_BYTES, offset: 0, size };
const chunks: [what: string, reason: string, kind: number, payload: Uint8Array][] = [
  [
    "in a buffer that there is not",
    "chunk",
    MessageKind.FILE_CHUNK,
    encodeChunk({ ...firstChunk, buffer: WINDOW_BUFFERS }),
  ],
  [
    "larger than its buffer",
    "chunk",
    MessageKind.FILE_CHUNK,
    encodeChunk({ ...firstChunk, length: WINDOW_BUFFER_BYTES + 1 }),
  ],
  [
    "out of turn",
    "chunk",
    MessageKind.FILE_CHUNK,
    encodeChunk({ ...firstChunk, offset: WINDOW_BUFFER_BYTES }),
  ],
  [
    "of a file of another size",
    "chunk",
    MessageKind.FILE_CHUNK,
    encodeChunk({ ...firstChunk, size: size + 1 }),
  ],
  ["of three bytes", "chunk", MessageKind.FILE_CHUNK, new Uint8Array(3)],
  ["that is the message of a get", "message_kind", MessageKind.FILE_BUFFER_FREE, encodeBuffer(0)],
  ["that ends with half a hash", "message_kind", MessageKind.FILE_END, new Uint8Array(16)],
];

for (const [what, reason, kind, payload] of chunks) {
  attackTest(`a put with a chunk ${what}`, reason, async (client, scene) => {
    await beginPut(client);
    client.sendFragment({ kind, payload });
    await scene.ended(client.peer);
    await eventually("no file is left", () => scene.filesLeft().length === 0, 1000);
  });
}

/** How far a client comes before it ends the connection, and the reason if it does so politely. */
const ends: [where: string, reach: (client: HostileClient) => Promise<void>, reason: string][] = [
  [
    "within a frame",
    (client) => client.writeBytes(frame(FrameType.HELLO, 1000, [123])),
    "frame_cut_off",
  ],
  ["after WELCOME", (client) => client.enter(), "hung_up"],
  ["before the first message", (client) => client.reachFirstMessage(), "hung_up"],
  ["in a session", (client) => client.establish(), "closed"],
  [
    "in the middle of a put",
    async (client) => {
      await beginPut(client);
      client.sendFragment({ kind: MessageKind.FILE_CHUNK, payload: encodeChunk(firstChunk) });
      await client.message(MessageKind.FILE_BUFFER_FREE);
      const [name, ...others] = Scene.current.filesLeft();
      assertEquals([name?.endsWith(".part"), others], [true, []]);
    },
    "closed",
  ],
];

for (const [where, reach, reason] of ends) {
  attackTest(`a client that hangs up ${where}`, reason, async (client, scene) => {
    await reach(client);
    client.hangUp();
    await eventually("no file is left", () => scene.filesLeft().length === 0, 1000);
  });
  attackTest(`a client that vanishes ${where}`, "connection_lost", async (client, scene) => {
    await reach(client);
    client[Symbol.dispose]();
    await eventually("no file is left", () => scene.filesLeft().length === 0, 1000);
  });
}

attackTest("a put whose hash is not that of its bytes", "bye", async (client, scene) => {
  await beginPut(client);
  const short = encodeChunk(firstChunk);
  client.sendFragment({ kind: MessageKind.FILE_CHUNK, payload: short });
  await client.message(MessageKind.FILE_BUFFER_FREE);
  client.sendFragment({ kind: MessageKind.FILE_END, payload: new Uint8Array(32) });
  assertEquals((await client.reply()).body.error?.code, "file_size");
  await eventually("no file is left", () => scene.filesLeft().length === 0, 1000);
  await client.send({ name: "BYE", body: {} });
});

attackTest("a get whose buffers are given back twice", "buffer", async (client, scene) => {
  await Deno.writeFile(`${scene.workspace.root}/large`, new Uint8Array(size));
  await client.establish();
  const { window } = client;
  await client.request("files", { operation: "get", transfer: 1, path: "large", window });
  await client.message(MessageKind.FILE_CHUNK);
  for (let again = 0; again < WINDOW_BUFFERS; again++) {
    client.sendFragment({ kind: MessageKind.FILE_BUFFER_FREE, payload: encodeBuffer(0) });
  }
  await scene.ended(client.peer);
  await Deno.remove(`${scene.workspace.root}/large`);
});

const refused: [
  what: string,
  service: "files" | "memory",
  body: (client: HostileClient) => unknown,
  code: string,
][] = [
  [
    "a request of no known operation",
    "files",
    () => ({ operation: "delete", path: "x" }),
    "schema",
  ],
  [
    "a grant outside of the region",
    "memory",
    () => ({ operation: "grant", direction: "write", offset: "1048570", length: "10" }),
    "grant_bounds",
  ],
  ["a withdrawal of no grant", "memory", () => ({ operation: "withdraw" }), "grant"],
  [
    "a path out of the root",
    "files",
    ({ window }) => ({ operation: "get", transfer: 1, path: "../certs/server.key", window }),
    "EXDEV",
  ],
];

verbsTest("a request that cannot be granted is refused, and the session goes on", async () => {
  const scene = Scene.current;
  using client = await scene.connect();
  await client.establish();
  for (const [what, service, body, code] of refused) {
    await client.request(service, body(client));
    assertEquals((await client.reply()).body.error?.code, code, what);
  }
  assertEquals(scene.ends(client.peer), []);
  await client.send({ name: "BYE", body: {} });
  assertEquals((await scene.ended(client.peer)).reason, "bye");
  client.dropQueuePair();
  await scene.unharmed();
});

verbsTest(
  "a grant reaches no byte beside it, in no other direction, and none when withdrawn",
  async () => {
    const scene = Scene.current;
    const reaches: [
      what: string,
      opcode: typeof Opcode.READ | typeof Opcode.WRITE,
      shift: number,
      withdrawn: boolean,
    ][] = [
      ["one byte before", Opcode.WRITE, -1, false],
      ["one byte after", Opcode.WRITE, 1, false],
      ["READ where WRITE was granted", Opcode.READ, 0, false],
      ["WRITE after the withdrawal", Opcode.WRITE, 0, true],
    ];
    for (const [what, opcode, shift, withdrawn] of reaches) {
      using client = await scene.connect();
      await client.establish();
      const grant = { operation: "grant", direction: "write", offset: "4096", length: "64" };
      await client.request("memory", grant);
      const remote = (await client.reply()).body.body as { address: string; rkey: number };
      if (withdrawn) {
        await client.request("memory", { operation: "withdraw" });
        await client.reply();
      }
      client.reach(opcode, { address: Number(remote.address) + shift, rkey: remote.rkey });
      assertEquals((await deadline(client.failure, 5000)).code, "ibv_wc_rem_access_err", what);
      client[Symbol.dispose]();
      await scene.ended(client.peer);
      await scene.unharmed();
    }
  },
);

verbsTest("the server names the reason to the client too", async () => {
  const scene = Scene.current;
  using client = await scene.connect();
  await client.writeBytes(frame(99, 0));
  const last = await client.farewell();
  assertEquals(last?.name === "ERROR" && last.body.code, "frame_type");
});

verbsTest("a client that asks without end and takes no answers is made to wait", async () => {
  const scene = Scene.current;
  using client = await scene.connect();
  await client.establish();
  const memory = () =>
    Number(/VmRSS:\s+(\d+)/.exec(Deno.readTextFileSync(`/proc/${scene.server.pid}/status`))![1]);
  const before = memory();
  const flood = (async () => {
    for (let count = 0; count < 100_000; count++) {
      client.sendFragment({ kind: MessageKind.ECHO, id: count });
      if (count % 8 === 7) await client.acknowledged();
    }
  })();
  const failure = await deadline(Promise.race([client.failure, flood]), 20_000);
  assertEquals(failure?.code, "ibv_wc_rnr_retry_exc_err");
  assert(memory() - before < 64 * 1024, `${memory() - before} KiB more`);
  client[Symbol.dispose]();
  await scene.ended(client.peer);
  await scene.unharmed();
});

verbsTest(
  "a client that asks much more at once than may wait is answered all the same",
  async () => {
    const { honest } = Scene.current;
    const questions = Array.from({ length: 8 }, (_, index) => new Uint8Array(limit).fill(index));
    const answers = Promise.all(questions.map((body) => honest.messages.ask("ECHO", body)));
    const received = await deadline(honest.session.during(answers), 30_000);
    for (const [index, body] of received.entries()) {
      assert(body.length === limit && body.every((byte) => byte === index), `answer ${index}`);
    }
    await Scene.current.unharmed();
  },
);

verbsTest(
  "every session ended with exactly one line, and no line tells of the server's inside",
  () => {
    const { server } = Scene.current;
    const peers = server.log.filter(isEnd).map(({ peer }) => peer);
    assertEquals(new Set(peers).size, peers.length);
    assertEquals(server.log.filter(({ reason }) => reason === "internal"), []);
    assertEquals(server.log.filter(({ level }) => level === "error"), []);
    for (const line of server.log) assert(typeof line.level === "string", JSON.stringify(line));
  },
);
