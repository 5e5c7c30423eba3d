import { assert, assertEquals, assertRejects } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { libcryptoSha256 } from "../../ffi/libcrypto_sha256.ts";
import { Memory } from "../../ffi/memory.ts";
import type { Service } from "../../lib/control/messages.ts";
import { RefusedError, VerbsealError } from "../../lib/errors.ts";
import type { Access } from "../../lib/rdma/memory_region.ts";
import { Opcode } from "../../lib/rdma/work_request.ts";
import { FileClient } from "../../lib/services/file_client.ts";
import { fileService } from "../../lib/services/file_service.ts";
import { Directory } from "../../lib/services/file_system.ts";
import { MemoryClient, memoryService } from "../../lib/services/memory.ts";
import { MessageClient, messageService } from "../../lib/services/messages.ts";
import type { ClientSession } from "../../lib/session/client_session.ts";
import type { DataPathOptions } from "../../lib/session/data_path.ts";
import { defaultLimits, type SessionLimits } from "../../lib/session/limits.ts";
import type { ServiceAccess, ServiceDefinition } from "../../lib/session/service.ts";
import { TRANSFERS } from "../../lib/session/transfers.ts";
import { StreamDataPath, type StreamPathParts } from "../../lib/session/stream_data_path.ts";
import { ClientTurns, type SessionTurns } from "../../lib/session/client_turns.ts";
import { afterRound } from "../../lib/rdma/breather.ts";
import {
  type FrameHeader,
  FrameType,
  HEADER_BYTES,
  SEGMENT_BYTES,
  writeHeader,
} from "../../lib/session/stream_frames.ts";
import type { DataConnection } from "../../lib/tls/data_connection.ts";
import { randomFile, sha256 } from "../program.ts";
import { dataPair } from "./tls_pair.ts";

// Deno's check for leaks wants libraries and their callbacks there before the first test.
libcryptoSha256();
await (await dataPair())[Symbol.asyncDispose]();

const MESSAGE_BYTES = 2 ** 20;
const LENT_BYTES = 2 ** 20;

function options(side: "client" | "server"): DataPathOptions {
  return { side, messageBytes: MESSAGE_BYTES, services: ["messages", "memory", "files"] };
}

/** Both ends of a session's data path; the control connection's requests are calls. */
class Scene implements AsyncDisposable {
  readonly messages = new MessageClient();
  readonly memory = new MemoryClient();
  readonly files = new FileClient();
  readonly directory = Deno.makeTempDirSync();
  readonly #root = new Directory(this.directory, { confined: true });
  readonly server: StreamDataPath;
  readonly client = new StreamDataPath(options("client"), [
    this.messages,
    this.memory,
    this.files,
  ]);
  readonly session = {
    agreed: { welcome: { limits: { registeredBytes: LENT_BYTES } } },
    request: (service: Service, body: unknown) =>
      Promise.try(() => this.server.request(service, body)),
    repeating: (work: () => Promise<unknown>) => work(),
  } as unknown as ClientSession;
  readonly #pairs: AsyncDisposable[] = [];

  private constructor(limits: Partial<SessionLimits>, parts: StreamPathParts) {
    this.server = new StreamDataPath(
      { ...options("server"), limits: { ...defaultLimits, ...limits } },
      [messageService, memoryService(LENT_BYTES), fileService(this.#root)],
      parts,
    );
  }

  static async create(
    limits: Partial<SessionLimits> = {},
    parts: StreamPathParts = {},
  ): Promise<Scene> {
    const scene = new Scene(limits, parts);
    await scene.connect();
    return scene;
  }

  /** Makes a connection that both ends go on over. */
  async connect(): Promise<void> {
    const pair = await dataPair();
    this.#pairs.push(pair);
    await Promise.all([this.server.use(pair.near), this.client.use(pair.far)]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.client.close(), this.server.close()]);
    await Promise.all(this.#pairs.map((pair) => pair[Symbol.asyncDispose]()));
    this.#root[Symbol.dispose]();
    await Deno.remove(this.directory, { recursive: true });
  }
}

/** Uses every service. */
async function useAll(scene: Scene, rounds = 1): Promise<void> {
  const { session, messages, memory, files, directory } = scene;
  const large = new Uint8Array(MESSAGE_BYTES);
  for (let at = 0; at < large.length; at += 65536) {
    crypto.getRandomValues(large.subarray(at, at + 65536));
  }
  for (let round = 0; round < rounds; round++) {
    for (const bytes of [0, 1, 5000, 65512, 65513, MESSAGE_BYTES]) {
      assertEquals(await messages.ask("ECHO", large.subarray(0, bytes)), large.subarray(0, bytes));
    }
    await memory.write(session, 5000, large.subarray(0, 600_000));
    assertEquals(await memory.read(session, 5001, 599_999), large.slice(1, 600_000));
    for (const bytes of [0, 1, 262_145, 3_000_000]) {
      const [sent, back] = [`${directory}/sent`, `${directory}/back`];
      await randomFile(sent, bytes);
      const hash = await sha256(sent);
      assertEquals((await files.put(session, sent, "file")).sha256, hash);
      assertEquals(await sha256(`${directory}/file`), hash);
      assertEquals((await files.get(session, "file", back)).sha256, hash);
      assertEquals(await sha256(back), hash);
    }
  }
}

Deno.test("over a data connection messages are answered, and memory and files moved", async () => {
  await using scene = await Scene.create();
  await useAll(scene);
  await assertRejects(() => scene.memory.write(scene.session, LENT_BYTES, new Uint8Array(1)));
  const tooLong = new Uint8Array(MESSAGE_BYTES + 1);
  await assertRejects(
    () => Promise.try(() => scene.messages.ask("ECHO", tooLong)),
    VerbsealError,
    "1048577 bytes",
  );
});

Deno.test("ten thousand questions at once are answered, each with its own answer", async () => {
  await using scene = await Scene.create();
  const bodies = Array.from({ length: 10_000 }, (_, index) => new TextEncoder().encode(`${index}`));
  const answers = await Promise.all(bodies.map((body) => scene.messages.ask("ECHO", body)));
  assertEquals(answers, bodies);
});

Deno.test("a session goes on over one connection after the other, and loses nothing", async () => {
  await using scene = await Scene.create();
  const used = useAll(scene, 3);
  for (let connection = 1; connection < 40; connection++) await scene.connect();
  await used;
});

Deno.test("a session that ends leaves nobody waiting", async () => {
  const scene = await Scene.create();
  const asked = scene.messages.ask("ECHO", new Uint8Array(1));
  const ended = assertRejects(() => asked, VerbsealError, "session has ended");
  await scene.client.close();
  await ended;
  assertEquals((await deadline(scene.server.failure, 3000)).code, "hung_up");
  await scene[Symbol.asyncDispose]();
});

Deno.test("a client that has had its time of the thread is answered in a later round", async () => {
  let held: (() => void)[] | undefined;
  const turns = new ClientTurns((callback) => held ? held.push(callback) : afterRound(callback));
  await using scene = await Scene.create({}, { turns });
  const [body, nobody] = [new Uint8Array(1), ""];
  turns.join("another"); // with one client alone there are no rounds
  await scene.messages.ask("ECHO", body);
  held = [];
  turns.join(nobody).worked(10); // in another session of the same client
  let answered = false;
  const answer = () => answered = true;
  const asked = scene.messages.ask("ECHO", body).then(answer);
  const requested = scene.session.request("memory", { operation: "withdraw" }).catch(answer);
  for (let round = 0; round < 1000; round++) await new Promise<void>(afterRound);
  assert(!answered);
  const ended = held;
  held = undefined;
  for (const callback of ended) callback();
  await Promise.all([asked, requested]);
});

Deno.test("what a client reads over a data connection counts for it", async () => {
  let pieces = 0;
  const turns = {
    mustWait: false,
    turn: () => Promise.resolve(),
    worked: () => pieces++,
    [Symbol.dispose]: () => {},
  };
  const join = () => turns as unknown as SessionTurns;
  await using scene = await Scene.create({}, { turns: { join } as unknown as ClientTurns });
  const before = pieces;
  await scene.memory.read(scene.session, 0, LENT_BYTES);
  const segments = LENT_BYTES / SEGMENT_BYTES;
  assert(pieces - before > segments, `${pieces - before} pieces of ${segments} segments`);
});

Deno.test("a data connection tells how long it has kept its thread busy", async () => {
  await using pair = await dataPair();
  const [written, read]: [number[], number[]] = [[], []];
  pair.near.onWorked = (milliseconds) => written.push(milliseconds);
  pair.far.onWorked = (milliseconds) => read.push(milliseconds);
  await pair.near.write(new Uint8Array(2 ** 18));
  await pair.far.read(new Uint8Array(2 ** 14));
  for (const times of [written, read]) {
    assert(times.length > 0 && times.every((milliseconds) => milliseconds > 0), `${times}`);
  }
});

/** A path of the server, and a peer that says what it likes. */
class Attack implements AsyncDisposable {
  readonly memory = new Memory(8192);
  access!: ServiceAccess;
  readonly path: StreamDataPath;

  private constructor(
    readonly peer: DataConnection,
    private readonly end: AsyncDisposable,
    private readonly near: DataConnection,
  ) {
    const definition: ServiceDefinition = {
      name: "memory",
      kinds: [],
      start: (access) => {
        this.access = access;
        return { [Symbol.asyncDispose]: () => Promise.resolve() };
      },
    };
    this.path = new StreamDataPath(
      { ...options("server"), limits: defaultLimits },
      [definition, messageService],
    );
  }

  static async begin(): Promise<Attack> {
    const pair = await dataPair();
    const attack = new Attack(pair.far, pair, pair.near);
    await attack.path.use(attack.near);
    return attack;
  }

  async send(header: Partial<FrameHeader>, payload = new Uint8Array(0)): Promise<void> {
    const bytes = new Uint8Array(HEADER_BYTES + payload.length);
    const bare = { type: FrameType.MESSAGE, kind: 0, id: 0, key: 0, offset: 0 };
    writeHeader(new DataView(bytes.buffer), 0, { ...bare, length: payload.length, ...header });
    bytes.set(payload, HEADER_BYTES);
    await this.peer.write(bytes);
  }

  async failure(): Promise<string> {
    return (await deadline(this.path.failure, 3000)).code;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.path.close();
    await this.end[Symbol.asyncDispose]();
    this.memory[Symbol.dispose]();
  }
}

/** What a peer may do with 1000 bytes in the middle of a page that were registered for this. */
const trespasses: [string, readonly Access[], Partial<FrameHeader>, payload?: number][] = [
  ["WRITEs beyond the end", ["REMOTE_WRITE"], { type: FrameType.WRITE, offset: 999 }, 2],
  ["WRITEs far away", ["REMOTE_WRITE"], { type: FrameType.WRITE, offset: 2 ** 40 }, 1],
  ["WRITEs what it may read", ["REMOTE_READ"], { type: FrameType.WRITE }, 1],
  ["WRITEs what is the server's alone", ["LOCAL_WRITE"], { type: FrameType.WRITE }, 1],
  ["WRITEs before the first", ["REMOTE_WRITE"], { type: FrameType.WRITE, offset: -1 }, 2],
  ["READs beyond the end", ["REMOTE_READ"], { type: FrameType.READ, length: 1001 }],
  ["READs what it may write", ["REMOTE_WRITE"], { type: FrameType.READ, length: 1 }],
];

for (const [what, access, header, payload = 0] of trespasses) {
  Deno.test(`a peer that ${what}: remote_access`, async () => {
    await using attack = await Attack.begin();
    using region = attack.access.registerMemory(attack.memory, access, 100, 1000);
    const offset = region.address + (header.offset ?? 0);
    await attack.send({ ...header, offset, key: region.rkey }, new Uint8Array(payload).fill(7));
    assertEquals(await attack.failure(), "remote_access");
    assert(attack.memory.bytes.every((byte) => byte === 0));
  });
}

Deno.test("a peer reaches exactly what was registered, for as long as it is", async () => {
  await using attack = await Attack.begin();
  const region = attack.access.registerMemory(attack.memory, ["REMOTE_WRITE"], 100, 1000);
  const { rkey: key, address: offset } = region;
  const write = { type: FrameType.WRITE, kind: 1, id: 5, key, offset };
  await attack.send(write, new Uint8Array(1000).fill(7));
  const answer = new Uint8Array(HEADER_BYTES);
  assertEquals(await attack.peer.read(answer), HEADER_BYTES);
  assertEquals([answer[0], answer[7]], [FrameType.WRITTEN, 5]);
  const touched = [...attack.memory.bytes.entries()].filter(([, byte]) => byte === 7);
  assertEquals([touched.length, touched[0]![0], touched.at(-1)![0]], [1000, 100, 1099]);
  region[Symbol.dispose]();
  await attack.send({ type: FrameType.WRITE, key, offset }, new Uint8Array(1));
  assertEquals(await attack.failure(), "remote_access");
});

Deno.test("memory that is given back in the middle of a WRITE is not written to any more", async () => {
  await using attack = await Attack.begin();
  const region = attack.access.registerMemory(attack.memory, ["REMOTE_WRITE"]);
  const bytes = new Uint8Array(4000).fill(7);
  await attack.send({ type: FrameType.WRITE, key: region.rkey, length: 8000 }, bytes);
  while (attack.memory.bytes[3999] !== 7) await new Promise((done) => setTimeout(done, 1));
  region[Symbol.dispose]();
  await attack.peer.write(bytes);
  assertEquals(await attack.failure(), "remote_access");
  assertEquals(attack.memory.bytes[4000], 0);
});

const breaches: [string, string, Partial<FrameHeader>[]][] = [
  ["asks a service that there is not", "message_kind", [{ kind: 99 }]],
  ["confirms what nobody wrote", "transfer", [{ type: FrameType.WRITTEN, id: 3 }]],
  ["sends what nobody reads", "transfer", [{ type: FrameType.DATA, id: 3, length: 1 }]],
  ["sends no frame", "frame_type", [{ type: 99 as FrameType }]],
];

for (const [what, code, headers] of breaches) {
  Deno.test(`a peer that ${what}: ${code}`, async () => {
    await using attack = await Attack.begin();
    for (const header of headers) await attack.send(header);
    assertEquals(await attack.failure(), code);
  });
}

Deno.test("a WRITE that its peer confirms too early is under way until all of it has left", async () => {
  await using attack = await Attack.begin();
  // More than sockets hold: the peer reads none of it.
  using memory = new Memory(2 ** 25);
  using region = attack.access.registerMemory(memory, []);
  const remote = { address: 0, rkey: 1 };
  let over = false;
  const writing = attack.access.transfer(Opcode.WRITE, region, 0, memory.length, remote);
  const rejected = assertRejects(() => writing.finally(() => over = true), VerbsealError);
  const confirmation = { type: FrameType.WRITTEN, id: TRANSFERS - 1 };
  await attack.send(confirmation);
  await attack.send(confirmation);
  assertEquals(await attack.failure(), "transfer", "the first is believed, the second is none");
  assert(!over);
  attack.peer.abort();
  await attack.path.close();
  await rejected;
});

Deno.test("a peer that begins more transfers than there may be: transfers", async () => {
  await using attack = await Attack.begin();
  using region = attack.access.registerMemory(attack.memory, ["REMOTE_READ"]);
  const read = { type: FrameType.READ, key: region.rkey, length: 8192 };
  const sending = (async () => {
    for (let id = 0; id < 2000; id++) await attack.send({ ...read, id });
  })().catch(() => {});
  assertEquals(await attack.failure(), "transfers");
  attack.peer.abort();
  await sending;
});

Deno.test("a READ whose answer is not the next part of it ends the session", async () => {
  for (const wrong of [{ offset: 1, length: 10 }, { length: 101 }, { kind: 1, length: 10 }]) {
    await using attack = await Attack.begin();
    using region = attack.access.registerMemory(attack.memory, ["LOCAL_WRITE"]);
    const reading = attack.access.transfer(Opcode.READ, region, 0, 100, { address: 0, rkey: 1 });
    const rejected = assertRejects(() => reading, VerbsealError);
    const asked = new Uint8Array(HEADER_BYTES);
    await attack.peer.read(asked);
    await attack.send({ type: FrameType.DATA, id: asked[7]!, ...wrong });
    assertEquals(await attack.failure(), "transfer");
    await attack.path.close();
    await rejected;
  }
});

Deno.test("a server takes no more questions of a client that takes no answers", async () => {
  await using attack = await Attack.begin();
  const body = new Uint8Array(60_000);
  let sent = 0;
  const stuck = Promise.withResolvers<void>();
  const sending = (async () => {
    for (; sent < 2000; sent++) {
      const timer = setTimeout(stuck.resolve, 500);
      await attack.send({ kind: 16, id: sent }, body);
      clearTimeout(timer);
    }
  })().catch(() => {});
  await deadline(stuck.promise, 20_000);
  assert(sent * body.length < 50 * 2 ** 20, `${sent} questions were taken`);
  attack.peer.abort();
  await sending;
});

Deno.test("refusals of a service do not end the session", async () => {
  await using scene = await Scene.create();
  const { memory, session } = scene;
  await assertRejects(() => memory.read(session, 2 ** 20 - 4, 8), RefusedError);
  await memory.read(session, 2 ** 20 - 8, 8);
});

Deno.test("a peer that is too fast is not read from until it may go on, and loses nothing", async () => {
  await using scene = await Scene.create({ messagesPerSecond: 50 });
  const slowed = new Set<string>();
  scene.server.onSlowed = (limit) => slowed.add(limit);
  const started = performance.now();
  const questions = Array.from({ length: 160 }, (_, index) => new Uint8Array([index]));
  // The connection is read in pieces of what has come: all at once would be one piece.
  for (let at = 0; at < questions.length; at += 20) {
    const some = questions.slice(at, at + 20);
    assertEquals(await Promise.all(some.map((body) => scene.messages.ask("ECHO", body))), some);
  }
  const took = performance.now() - started;
  assert(took > 1000, `${took} ms`);
  assertEquals([...slowed], ["message_rate"]);
});

Deno.test("grants over a data connection come as fast as they may", async () => {
  await using scene = await Scene.create({ grantsPerSecond: 20 });
  const started = performance.now();
  for (let count = 0; count < 40; count++) {
    await scene.memory.write(scene.session, 0, new Uint8Array(8));
  }
  const took = performance.now() - started;
  assert(took > 900, `${took} ms`);
});
