import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { join } from "node:path";
import { Memory } from "../../ffi/memory.ts";
import { libc } from "../../ffi/libc.ts";
import { libcryptoSha256 } from "../../ffi/libcrypto_sha256.ts";
import { ProtocolError, VerbsealError } from "../../lib/errors.ts";
import { ChunkSink } from "../../lib/services/chunk_sink.ts";
import { ChunkSource } from "../../lib/services/chunk_source.ts";
import type { Chunk } from "../../lib/services/file_protocol.ts";
import { Directory } from "../../lib/services/file_system.ts";

// Deno's check for leaks wants libraries loaded before the first test.
libc();
libcryptoSha256();

const BUFFERS = 3;
const BUFFER_BYTES = 4096;

/** Two directories and two sets of buffers, as client and server have them. */
class Bench implements Disposable {
  readonly #stack = new DisposableStack();
  readonly path = Deno.makeTempDirSync({ prefix: "verbseal-" });
  readonly directory = this.#stack.use(new Directory(this.path, { confined: true }));
  readonly memory = this.#stack.use(new Memory(BUFFERS * BUFFER_BYTES));
  readonly other = this.#stack.use(new Memory(BUFFERS * BUFFER_BYTES));

  constructor(bytes: number) {
    Deno.writeFileSync(join(this.path, "source"), crypto.getRandomValues(new Uint8Array(bytes)));
  }

  get source() {
    return this.#stack.use(this.directory.openFile("source"));
  }

  get target() {
    return this.#stack.use(this.directory.createFile("target"));
  }

  read(name: string): Uint8Array {
    return Deno.readFileSync(join(this.path, name));
  }

  /** What READ does: a buffer's bytes from one side to the other. */
  carry({ buffer, length }: Chunk): void {
    const at = buffer * BUFFER_BYTES;
    this.other.bytes.set(this.memory.bytes.subarray(at, at + length), at);
  }

  [Symbol.dispose](): void {
    this.#stack.dispose();
    Deno.removeSync(this.path, { recursive: true });
  }
}

for (const bytes of [0, 1, BUFFER_BYTES, BUFFERS * BUFFER_BYTES + 1, 12 * BUFFER_BYTES]) {
  Deno.test(`a file of ${bytes} bytes goes through the buffers and comes out the same`, async () => {
    using bench = new Bench(bytes);
    const target = bench.target;
    const sink = new ChunkSink(
      target.file,
      bench.other,
      BUFFER_BYTES,
      // Chunks are obtained at different speeds, as READs complete.
      async (chunk) => {
        if (chunk.buffer % 2 === 0) await Promise.resolve();
        bench.carry(chunk);
      },
      (buffer) => source.bufferFree(buffer),
    );
    const source = new ChunkSource(bench.source, bench.memory, BUFFER_BYTES, (chunk) => {
      sink.take(chunk);
      return Promise.resolve();
    });
    for (let buffer = 0; buffer < BUFFERS; buffer++) source.bufferFree(buffer);
    const sent = await source.run();
    const received = await sink.finish();
    assertEquals(received, sent);
    assertEquals(received.size, bytes);
    await target.commit();
    assertEquals(bench.read("target"), bench.read("source"));
  });
}

Deno.test("a sink takes chunks in their order and only into free buffers", () => {
  using bench = new Bench(0);
  const never = new Promise<void>(() => {});
  const sink = new ChunkSink(bench.target.file, bench.other, BUFFER_BYTES, () => never, () => {});
  const size = 10 * BUFFER_BYTES;
  const chunk = { buffer: 0, length: BUFFER_BYTES, offset: 0, size };
  assertThrows(() => sink.take({ ...chunk, offset: 1 }), ProtocolError, "out of turn");
  sink.take(chunk);
  assertThrows(() => sink.take(chunk), ProtocolError, "out of turn");
  const next = { ...chunk, offset: BUFFER_BYTES };
  assertThrows(() => sink.take(next), ProtocolError, "out of turn");
  sink.take({ ...next, buffer: 1 });
});

Deno.test("a sink that could not obtain a chunk fails, settles, and writes none after it", async () => {
  using bench = new Bench(0);
  const target = bench.target;
  const lost = new VerbsealError("lost", "lost");
  const sink = new ChunkSink(
    target.file,
    bench.other,
    BUFFER_BYTES,
    ({ buffer }) => buffer === 0 ? Promise.reject(lost) : Promise.resolve(),
    () => {},
  );
  const size = 10 * BUFFER_BYTES;
  const first = sink.take({ buffer: 0, length: BUFFER_BYTES, offset: 0, size });
  const second = sink.take({ buffer: 1, length: BUFFER_BYTES, offset: BUFFER_BYTES, size });
  await assertRejects(() => first, VerbsealError, "lost");
  await assertRejects(() => second, VerbsealError, "lost");
  await assertRejects(() => sink.finish(), VerbsealError, "lost");
  await sink.settled();
  await target.commit();
  assertEquals(bench.read("target").length, 0);
});

Deno.test("a sink that was finished takes no further chunk, which nobody has hashed", async () => {
  using bench = new Bench(0);
  const target = bench.target;
  const sink = new ChunkSink(
    target.file,
    bench.other,
    BUFFER_BYTES,
    () => Promise.resolve(),
    () => {},
  );
  const size = BUFFER_BYTES;
  const further = { buffer: 1, length: BUFFER_BYTES, offset: size, size: 2 * size };
  try {
    await sink.take({ buffer: 0, length: BUFFER_BYTES, offset: 0, size });
    const finished = sink.finish();
    assertThrows(() => sink.take(further), ProtocolError, "out of turn");
    assertEquals((await finished).size, size);
    assertThrows(() => sink.take(further), ProtocolError, "out of turn");
  } finally {
    await sink.settled(); // what was taken all the same uses the memory
  }
  await target.commit();
  assertEquals(bench.read("target").length, size);
});

Deno.test("a source refuses a buffer that is given back twice", () => {
  using bench = new Bench(1);
  const source = new ChunkSource(
    bench.source,
    bench.memory,
    BUFFER_BYTES,
    () => Promise.resolve(),
  );
  source.bufferFree(0);
  assertThrows(() => source.bufferFree(0), ProtocolError, "given back twice");
});

Deno.test("a source that waits for a buffer ends when it is told to", async () => {
  using bench = new Bench(1);
  const source = new ChunkSource(
    bench.source,
    bench.memory,
    BUFFER_BYTES,
    () => Promise.resolve(),
  );
  const running = source.run();
  source.abort(new VerbsealError("over", "over"));
  await assertRejects(() => running, VerbsealError, "over");
});

Deno.test("a source whose delivery fails ends with why, when all others have settled", async () => {
  using bench = new Bench(3 * BUFFER_BYTES);
  let settled = false;
  const slow = Promise.withResolvers<void>();
  const source = new ChunkSource(
    bench.source,
    bench.memory,
    BUFFER_BYTES,
    ({ buffer }) =>
      buffer === 0
        ? slow.promise.then(() => void (settled = true))
        : Promise.reject(new VerbsealError("undeliverable", "undeliverable")),
  );
  source.bufferFree(0);
  source.bufferFree(1);
  const running = source.run();
  setTimeout(slow.resolve, 50);
  await assertRejects(() => running, VerbsealError, "undeliverable");
  assertEquals(settled, true);
});

Deno.test("a file that shrinks while it is read is noticed", async () => {
  using bench = new Bench(2 * BUFFER_BYTES);
  const source = new ChunkSource(bench.source, bench.memory, BUFFER_BYTES, ({ buffer }) => {
    Deno.truncateSync(join(bench.path, "source"), BUFFER_BYTES);
    source.bufferFree(buffer);
    return Promise.resolve();
  });
  source.bufferFree(0);
  const error = await assertRejects(() => source.run(), VerbsealError, "shorter");
  assertEquals(error.code, "file_changed");
});
