import { assert, assertEquals } from "@std/assert";
import { createHash } from "node:crypto";
import { libc } from "../../ffi/libc.ts";
import { libcryptoSha256 } from "../../ffi/libcrypto_sha256.ts";
import { Memory } from "../../ffi/memory.ts";
import { FileHash } from "../../lib/services/file_hash.ts";
import { createSha256, NodeSha256 } from "../../lib/services/sha256.ts";

// Deno's check for leaks wants libraries loaded before the first test.
libc();
libcryptoSha256();

const SIZE = 60_000;
const PART = 1000;

/** Random bytes, and what their hashes are. */
class Source implements Disposable {
  readonly memory = new Memory(SIZE);

  constructor() {
    crypto.getRandomValues(this.memory.bytes);
  }

  digest(length: number): string {
    return createHash("sha256").update(this.memory.bytes.subarray(0, length)).digest("hex");
  }

  /** Gives so many bytes to a hash, in parts, without waiting for the one before. */
  async give(hash: FileHash, length: number): Promise<void> {
    let updated: Promise<void> | undefined;
    for (let at = 0; at < length; at += PART) updated = hash.update(this.memory, at, PART);
    await updated;
  }

  [Symbol.dispose](): void {
    this.memory[Symbol.dispose]();
  }
}

Deno.test("a hash on this thread waits for its session's turn, and counts for it", async () => {
  using source = new Source();
  const hash = new FileHash(() => createSha256(false));
  const turn = Promise.withResolvers<void>();
  let worked = 0;
  hash.turns = {
    turn: () => turn.promise,
    worked: (milliseconds) => worked += milliseconds,
  };
  const given = source.give(hash, SIZE);
  await new Promise((resolve) => setTimeout(resolve));
  assertEquals([hash.length, worked], [0, 0]);
  const started = performance.now();
  turn.resolve();
  await given;
  const passed = performance.now() - started;
  assert(worked > 0 && worked <= passed, `${worked} of ${passed} ms`);
  assertEquals(hash.digest(), source.digest(SIZE));
});

for (
  const [name, create] of [
    ["libcrypto on this thread", () => createSha256(false)],
    ["libcrypto on others", () => createSha256(true)],
    ["Deno, where libcrypto is missing", () => new NodeSha256()],
  ] as const
) {
  Deno.test(`a hash by ${name} is that of all that it was given, however often it is asked`, async () => {
    using source = new Source();
    const hash = new FileHash(create);
    await source.give(hash, 3000);
    const expected = source.digest(3000);
    assertEquals([hash.length, hash.digest(), hash.digest()], [3000, expected, expected]);
  });

  Deno.test(`a hash by ${name} goes back to its last places, and on from there`, async () => {
    using source = new Source();
    const hash = new FileHash(create);
    await source.give(hash, 50_000);
    for (const place of [50_000, 49_000, 30_000]) {
      assert(hash.rewind(place));
      assertEquals([hash.length, hash.digest()], [place, source.digest(place)]);
    }
    await hash.update(source.memory, 30_000, PART);
    assertEquals(hash.digest(), source.digest(31_000));
  });

  Deno.test(`a hash by ${name} goes back to no place between, before its last ones, or ahead`, async () => {
    using source = new Source();
    const hash = new FileHash(create);
    await source.give(hash, 50_000);
    for (const place of [49_500, 1000, 51_000]) assert(!hash.rewind(place), `${place}`);
    assertEquals(hash.digest(), source.digest(50_000));
    assert(hash.rewind(40_000));
    assert(!hash.rewind(41_000), "what was gone back from is no place any more");
  });

  Deno.test(`a hash by ${name} can always begin again`, async () => {
    using source = new Source();
    const hash = new FileHash(create);
    await source.give(hash, 50_000);
    assert(hash.rewind(0));
    await source.give(hash, SIZE);
    assertEquals(hash.digest(), source.digest(SIZE));
  });
}
