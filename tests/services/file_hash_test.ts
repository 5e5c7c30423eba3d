import { assert, assertEquals } from "@std/assert";
import { createHash } from "node:crypto";
import { FileHash } from "../../lib/services/file_hash.ts";

const bytes = crypto.getRandomValues(new Uint8Array(60_000));
const digest = (length: number) =>
  createHash("sha256").update(bytes.subarray(0, length)).digest("hex");

/** The hash of so many bytes, in parts of 1000. */
function hashed(length: number): FileHash {
  const hash = new FileHash();
  for (let at = 0; at < length; at += 1000) hash.update(bytes.subarray(at, at + 1000));
  return hash;
}

Deno.test("a hash is that of all that it was given, however often it is asked", () => {
  const hash = hashed(3000);
  assertEquals([hash.length, hash.digest(), hash.digest()], [3000, digest(3000), digest(3000)]);
});

Deno.test("a hash goes back to its last places, and on from there", () => {
  const hash = hashed(50_000);
  for (const place of [50_000, 49_000, 30_000]) {
    assert(hash.rewind(place));
    assertEquals([hash.length, hash.digest()], [place, digest(place)]);
  }
  hash.update(bytes.subarray(30_000, 31_000));
  assertEquals(hash.digest(), digest(31_000));
});

Deno.test("a hash goes back to no place between, before its last ones, or ahead", () => {
  const hash = hashed(50_000);
  for (const place of [49_500, 1000, 51_000]) assert(!hash.rewind(place), `${place}`);
  assertEquals(hash.digest(), digest(50_000));
  assert(hash.rewind(40_000));
  assert(!hash.rewind(41_000), "what was gone back from is no place any more");
});

Deno.test("a hash can always begin again", () => {
  const hash = hashed(50_000);
  assert(hash.rewind(0));
  hash.update(bytes);
  assertEquals(hash.digest(), digest(60_000));
});
