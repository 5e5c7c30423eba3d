import { assertEquals } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { FrameType } from "../../lib/control/frame.ts";
import { Opcode } from "../../lib/rdma/work_request.ts";
import {
  encodeChunk,
  encodeGrantedBuffer,
  encodeGrantedChunk,
} from "../../lib/services/file_protocol.ts";
import { RECORD_OVERHEAD } from "../../lib/security/seal.ts";
import { type GrantDirection, MessageKind } from "../../lib/session/service.ts";
import { eventually } from "../program.ts";
import { verbsTest } from "../rdma/resources.ts";
import { attackTest, frame, logTest, Scene } from "../session/attack_scene.ts";
import { HostileClient, WINDOW_BUFFER_BYTES, WINDOW_BUFFERS } from "../session/hostile_client.ts";

attackTest(
  "a chunk in what is not the client's memory",
  "ibv_wc_rem_access_err",
  async (client) => {
    await client.establish();
    const { window } = client;
    const size = 4096;
    await client.request("files", {
      operation: "put",
      transfer: 1,
      path: "lie",
      size: `${size}`,
      window,
    });
    await client.message(MessageKind.FILE_BUFFER_FREE);
    const rkey = (client.rkey ^ 0xff) >>> 0;
    const payload = encodeGrantedChunk({ buffer: 0, length: size, offset: 0, size, rkey });
    client.sendFragment({ kind: MessageKind.FILE_CHUNK, payload });
  },
);

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

const firstChunk = { buffer: 0, length: 4096, offset: 0, size, rkey: 1 };
const chunks: [what: string, reason: string, kind: number, payload: Uint8Array][] = [
  [
    "in a buffer that there is not",
    "chunk",
    MessageKind.FILE_CHUNK,
    encodeGrantedChunk({ ...firstChunk, buffer: WINDOW_BUFFERS }),
  ],
  [
    "larger than its buffer",
    "chunk",
    MessageKind.FILE_CHUNK,
    encodeGrantedChunk({ ...firstChunk, length: WINDOW_BUFFER_BYTES + 1 }),
  ],
  [
    "that leaves no room for its seal",
    "chunk",
    MessageKind.FILE_CHUNK,
    encodeGrantedChunk({ ...firstChunk, length: WINDOW_BUFFER_BYTES }),
  ],
  [
    "out of turn",
    "chunk",
    MessageKind.FILE_CHUNK,
    encodeGrantedChunk({ ...firstChunk, offset: WINDOW_BUFFER_BYTES }),
  ],
  [
    "of a file of another size",
    "chunk",
    MessageKind.FILE_CHUNK,
    encodeGrantedChunk({ ...firstChunk, size: size + 1 }),
  ],
  ["of three bytes", "chunk", MessageKind.FILE_CHUNK, new Uint8Array(3)],
  ["of which it tells no key", "chunk", MessageKind.FILE_CHUNK, encodeChunk(firstChunk)],
  [
    "that is the message of a get",
    "message_kind",
    MessageKind.FILE_BUFFER_FREE,
    encodeGrantedBuffer({ buffer: 0, rkey: 1 }),
  ],
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

attackTest("a put of what nobody sealed", "record_forged", async (client, scene) => {
  await beginPut(client);
  const payload = encodeGrantedChunk({ ...firstChunk, rkey: client.rkey });
  client.sendFragment({ kind: MessageKind.FILE_CHUNK, payload });
  await scene.ended(client.peer);
  await eventually("no file is left", () => scene.filesLeft().length === 0, 1000);
});

/** How far a client comes before it ends the connection, and the reason if it does so politely. */
const ends: [where: string, reach: (client: HostileClient) => Promise<void>, reason: string][] = [
  [
    "within a frame",
    (client) => client.writeBytes(frame(FrameType.HELLO, 1000, [123])),
    "frame_cut_off",
  ],
  ["after WELCOME", (client) => client.enter(), "hung_up"],
  ["before the first message", (client) => client.reachFirstMessage(), "hung_up"],
  [
    "in a session",
    async (client) => {
      await client.establish();
      // What is answered shows that the server too is through with the exchange.
      await client.request("files", client.getRequest("nothing"));
      await client.reply();
    },
    "closed",
  ],
  [
    "in the middle of a put",
    async (client) => {
      await beginPut(client);
      client.fillBuffer(1, firstChunk);
      const payload = encodeGrantedChunk({ ...firstChunk, rkey: client.rkey });
      client.sendFragment({ kind: MessageKind.FILE_CHUNK, payload });
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
  client.fillBuffer(1, firstChunk);
  const short = encodeGrantedChunk({ ...firstChunk, rkey: client.rkey });
  client.sendFragment({ kind: MessageKind.FILE_CHUNK, payload: short });
  await client.message(MessageKind.FILE_BUFFER_FREE);
  client.sendFragment({ kind: MessageKind.FILE_END, payload: new Uint8Array(32) });
  assertEquals((await client.reply()).body.error?.code, "file_size");
  await eventually("no file is left", () => scene.filesLeft().length === 0, 1000);
  await client.send({ name: "BYE", body: {} });
});

attackTest("a get whose buffers are given back twice", "buffer", async (client, scene) => {
  await Deno.writeFile(`${scene.workspace.root}/large`, new Uint8Array(6 * size));
  await client.establish();
  await client.request("files", client.getRequest("large"));
  for (let buffer = 0; buffer < WINDOW_BUFFERS; buffer++) {
    await client.message(MessageKind.FILE_CHUNK);
  }
  // A server that is slow to hear of it may have filled the last in between, but not each time.
  for (const buffer of [0, 1, 2, ...Array<number>(12).fill(3)]) {
    const payload = encodeGrantedBuffer({ buffer, rkey: client.rkey });
    client.sendFragment({ kind: MessageKind.FILE_BUFFER_FREE, payload });
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
    (client) => client.getRequest("../certs/server.key"),
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

attackTest("a withdrawal of what nobody sealed", "record_forged", async (client) => {
  await client.establish();
  const range = { offset: "0", length: "64" };
  await client.request("memory", { operation: "grant", direction: "write", ...range });
  await client.reply();
  await client.request("memory", { operation: "withdraw" });
});

verbsTest(
  "a grant reaches no byte beside it, in no other direction, and none when withdrawn",
  async () => {
    const scene = Scene.current;
    const reaches: [
      what: string,
      direction: GrantDirection,
      opcode: typeof Opcode.READ | typeof Opcode.WRITE,
      shift: number,
      withdrawn: boolean,
    ][] = [
      ["one byte before", "write", Opcode.WRITE, -1, false],
      ["one byte after", "write", Opcode.WRITE, 1, false],
      ["READ where WRITE was granted", "write", Opcode.READ, 0, false],
      ["WRITE where READ was granted", "read", Opcode.WRITE, 0, false],
      ["READ after the withdrawal", "read", Opcode.READ, 0, true],
    ];
    for (const [what, direction, opcode, shift, withdrawn] of reaches) {
      using client = await scene.connect();
      await client.establish();
      const grant = { operation: "grant", direction, offset: "4096", length: "64" };
      await client.request("memory", grant);
      const remote = (await client.reply()).body.body as { address: string; rkey: number };
      if (withdrawn) {
        await client.request("memory", { operation: "withdraw" });
        await client.reply();
      }
      const beside = { address: Number(remote.address) + shift, rkey: remote.rkey };
      client.reach(opcode, beside, 64 + RECORD_OVERHEAD);
      assertEquals((await deadline(client.failure, 5000)).code, "ibv_wc_rem_access_err", what);
      client[Symbol.dispose]();
      await scene.ended(client.peer);
      await scene.unharmed();
    }
  },
);

logTest();
