import { assertEquals, assertThrows } from "@std/assert";
import { RefusedError } from "../../lib/errors.ts";
import type { MemoryRegion } from "../../lib/rdma/memory_region.ts";
import { RegisteredBytes } from "../../lib/session/registered_bytes.ts";

/** A region that no device knows, and how often it was disposed. */
function region(length: number) {
  const ends = { count: 0 };
  const made: MemoryRegion = {
    address: 4096,
    length,
    lkey: 1,
    rkey: 2,
    [Symbol.dispose]: () => void ends.count++,
  };
  return { made, ends };
}

Deno.test("regions count together until they are disposed, each once", () => {
  const registered = new RegisteredBytes(100);
  const first = region(60);
  const counted = registered.count(60, () => first.made);
  const { address, length, lkey, rkey } = counted;
  assertEquals([address, length, lkey, rkey], [4096, 60, 1, 2]);
  registered.count(40, () => region(40).made);
  const more = () => registered.count(1, () => region(1).made);
  assertEquals(assertThrows(more, RefusedError).code, "registered_memory");
  counted[Symbol.dispose]();
  counted[Symbol.dispose]();
  assertEquals(first.ends.count, 2, "the region knows itself what a second end is");
  registered.count(60, () => region(60).made);
  assertThrows(more, RefusedError);
});

Deno.test("what could not be registered does not count", () => {
  const registered = new RegisteredBytes(100);
  const fail = () => {
    throw new Error("no memory");
  };
  assertThrows(() => registered.count(100, fail), Error, "no memory");
  registered.count(100, () => region(100).made);
});

Deno.test("bytes that are reserved count with registered ones, until they are given back, once", () => {
  const registered = new RegisteredBytes(100);
  const lent = registered.reserve(60);
  const region40 = registered.count(40, () => region(40).made);
  assertEquals(assertThrows(() => registered.reserve(1), RefusedError).code, "registered_memory");
  lent[Symbol.dispose]();
  lent[Symbol.dispose]();
  registered.reserve(60);
  assertThrows(() => registered.reserve(1), RefusedError);
  region40[Symbol.dispose]();
  registered.reserve(40);
});
