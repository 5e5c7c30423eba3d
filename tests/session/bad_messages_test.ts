import { assert, assertEquals } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { FrameType } from "../../lib/control/frame.ts";
import { Opcode } from "../../lib/rdma/work_request.ts";
import { encodeBuffer, encodeChunk } from "../../lib/services/file_protocol.ts";
import { FRAGMENT_BYTES } from "../../lib/session/messenger.ts";
import { MessageKind } from "../../lib/session/service.ts";
import { attackTest, frame, IDLE, isEnd, Scene } from "./attack_scene.ts";
import { HostileClient, WINDOW_BUFFER_BYTES, WINDOW_BUFFERS } from "./hostile_client.ts";
import { eventually } from "./program.ts";
import { verbsTest } from "./resources.ts";

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
    client.vanish();
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
