import { Buffer } from "node:buffer";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { Memory } from "../../ffi/memory.ts";
import { IntegrityError, ProtocolError } from "../../lib/errors.ts";
import { RECORD_OVERHEAD } from "../../lib/security/seal.ts";
import { ChunkBuffers } from "../../lib/services/chunk_buffers.ts";
import { StagedRecord } from "../../lib/services/staged_record.ts";
import { SealedPair } from "../security/sealed_pair.ts";

const window = { buffers: 2, bufferBytes: 65536 };
const size = 200_000;

/** Both sides of a transfer, and the buffers between them, which are one memory here. */
class Scene implements Disposable {
  readonly pair = new SealedPair();
  readonly shared = new Memory(window.buffers * window.bufferBytes);
  readonly client = new ChunkBuffers({ seal: this.pair.client }, 1, this.shared, window);
  readonly server = new ChunkBuffers({ seal: this.pair.server }, 1, this.shared, window);

  /** Seals a chunk of this byte. */
  send(octet: number, buffer: number, offset: number) {
    const chunk = { buffer, length: this.client.bytes, offset, size };
    this.client.memory.bytes.fill(octet, buffer * chunk.length, (buffer + 1) * chunk.length);
    this.client.seal(chunk);
    return chunk;
  }

  /** What the server has in a buffer. */
  received(buffer: number): Set<number> {
    const { memory, bytes } = this.server;
    return new Set(memory.bytes.subarray(buffer * bytes, (buffer + 1) * bytes));
  }

  [Symbol.dispose](): void {
    for (const each of [this.client, this.server, this.shared, this.pair]) each[Symbol.dispose]();
  }
}

Deno.test("a chunk is as many pages as leave room for the seal in its buffer", () => {
  using scene = new Scene();
  assertEquals(scene.client.bytes, 65536 - 4096);
  const chunk = { buffer: 0, length: 1000, offset: 0, size };
  assertEquals(scene.client.sharedBytes(chunk), 1000 + RECORD_OVERHEAD);
});

Deno.test("chunks are opened in their order, in whatever order they arrive", async () => {
  using scene = new Scene();
  const chunks = [scene.send(1, 0, 0), scene.send(2, 1, scene.client.bytes)];
  const arrivals = chunks.map(() => Promise.withResolvers<void>());
  const opened = chunks.map((chunk, at) => scene.server.open(chunk, arrivals[at]!.promise));
  arrivals[1]!.resolve();
  await Promise.resolve();
  assertEquals(scene.received(1), new Set([0]), "it waits for its turn");
  arrivals[0]!.resolve();
  await Promise.all(opened);
  assertEquals([scene.received(0), scene.received(1)], [new Set([1]), new Set([2])]);
});

Deno.test("the plaintext of a chunk never stands in the shared buffers", async () => {
  using scene = new Scene();
  const chunk = scene.send(0x41, 0, 0);
  const text = "A".repeat(16);
  const shared = Buffer.from(scene.shared.bytes.buffer);
  assertEquals(shared.indexOf(text), -1);
  await scene.server.open(chunk, Promise.resolve());
  assertEquals(shared.indexOf(text), -1);
});

Deno.test("a chunk that was changed on its way is not used, nor any after it", async () => {
  using scene = new Scene();
  const chunks = [scene.send(1, 0, 0), scene.send(2, 1, scene.client.bytes)];
  scene.shared.bytes[100]! ^= 1;
  const opened = chunks.map((chunk) => scene.server.open(chunk, Promise.resolve()));
  for (const each of opened) await assertRejects(() => each, IntegrityError);
  assertEquals([scene.received(0), scene.received(1)], [new Set([0]), new Set([0])]);
  assertEquals(scene.pair.failures.map(({ code }) => code), ["record_forged"]);
});

Deno.test("a chunk that is still under way is waited for, also when one before it was changed", async () => {
  using scene = new Scene();
  const [first, second] = [scene.send(1, 0, 0), scene.send(2, 1, scene.client.bytes)];
  scene.shared.bytes[100]! ^= 1;
  const opened = scene.server.open(first, Promise.resolve());
  const arrival = Promise.withResolvers<void>();
  let over = false;
  const next = scene.server.open(second, arrival.promise);
  next.catch(() => {}).finally(() => over = true);
  await assertRejects(() => opened, IntegrityError);
  await new Promise((resolve) => setTimeout(resolve));
  assert(!over, "the peer's bytes still come into its buffer");
  arrival.resolve();
  await assertRejects(() => next, IntegrityError);
});

Deno.test("a transfer's number is not used again", () => {
  using scene = new Scene();
  const again = () => new ChunkBuffers({ seal: scene.pair.server }, 1, scene.shared, window);
  assertThrows(again, ProtocolError, "transfer 1");
});

Deno.test("where nothing is sealed, chunks stay in the shared buffers", async () => {
  using shared = new Memory(window.buffers * window.bufferBytes);
  using plain = new ChunkBuffers({}, 1, shared, window);
  assert(plain.memory === shared);
  const chunk = { buffer: 1, length: plain.bytes, offset: 0, size };
  assertEquals([plain.bytes, plain.sharedBytes(chunk)], [65536, 65536]);
  shared.bytes.fill(7);
  plain.seal(chunk);
  await plain.open(chunk, Promise.resolve());
  assert(shared.bytes.every((octet) => octet === 7));
});

Deno.test("a staged record opens to the same bytes at its place in the region only", () => {
  for (const [offset, code] of [[512, undefined], [513, "record_forged"]] as const) {
    using pair = new SealedPair();
    using plain = new Memory(1000);
    using region = new Memory(4096);
    plain.bytes.fill(9);
    using sent = new StagedRecord(pair.client.channel("memory", 1), plain, 100, 300, 512);
    sent.seal();
    using received = new StagedRecord(pair.server.channel("memory", 1), region, 512, 300, offset);
    received.memory.bytes.set(sent.memory.bytes);
    if (code === undefined) received.open();
    else assertEquals(assertThrows(() => received.open(), IntegrityError).code, code);
    const written = region.bytes.slice(512, 812);
    assert(written.every((octet) => octet === (code === undefined ? 9 : 0)));
  }
});
