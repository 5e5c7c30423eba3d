import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { libc } from "../../ffi/libc.ts";
import { ProtocolError } from "../../lib/errors.ts";
import { BUFFER_BYTES, BUFFERS } from "../../lib/services/file_protocol.ts";
import { LentBuffers } from "../../lib/services/lent_buffers.ts";
import type { GrantDirection, ServiceAccess } from "../../lib/session/service.ts";

// Deno's check for leaks wants libraries loaded before the first test.
libc();

/** Of what the session lends: which bytes are open, and what waits. */
class Lender {
  readonly open = new Map<number, [direction: GrantDirection, length: number]>();
  readonly lent = new Set<number>();
  slow: Promise<void> = Promise.resolve();

  readonly access = {
    lend: (_memory, offset = 0) => {
      this.lent.add(offset);
      return {
        address: 2 ** 20 + offset,
        grant: async (direction, length = BUFFER_BYTES) => {
          await this.slow;
          if (!this.lent.has(offset)) throw new Error("granted what is lent no more");
          this.open.set(offset, [direction, length]);
          return offset;
        },
        withdraw: async () => {
          await this.slow;
          this.open.delete(offset);
        },
        [Symbol.dispose]: () => {
          this.open.delete(offset);
          this.lent.delete(offset);
        },
      };
    },
  } as ServiceAccess;
}

Deno.test("a buffer is open for exactly the bytes of a chunk, from when it is given until it is taken back", async () => {
  const lender = new Lender();
  await using buffers = new LentBuffers(lender.access, "read");
  assertEquals(buffers.window.address, String(2 ** 20));
  await buffers.takeBack(3);
  assertEquals(lender.open.size, 0);
  assertEquals(await buffers.give(3, 1000), 3 * BUFFER_BYTES);
  assertEquals([...lender.open], [[3 * BUFFER_BYTES, ["read", 1000]]]);
  await buffers.takeBack(3);
  assertEquals(lender.open.size, 0);
});

Deno.test("a server that gives back what it does not have is refused", async () => {
  const lender = new Lender();
  await using source = new LentBuffers(lender.access, "read");
  await source.takeBack(0);
  assertThrows(() => source.takeBack(0), ProtocolError, "buffer 0");
  await using sink = new LentBuffers(lender.access, "write");
  assertThrows(() => sink.takeBack(0), ProtocolError, "buffer 0");
  const granted = Promise.withResolvers<void>();
  lender.slow = granted.promise;
  const giving = sink.give(0);
  assertThrows(() => sink.takeBack(0), ProtocolError, "buffer 0");
  granted.resolve();
  await giving;
  await sink.takeBack(0);
});

Deno.test("what the server is to write begins as zeros, each time", async () => {
  await using buffers = new LentBuffers(new Lender().access, "write");
  for (let round = 0; round < 2; round++) {
    await buffers.give(1);
    const bytes = buffers.memory.bytes.subarray(BUFFER_BYTES, 2 * BUFFER_BYTES);
    assertEquals(bytes.findIndex((byte) => byte !== 0), -1);
    bytes.fill(7);
    await buffers.takeBack(1);
    assertEquals(bytes.findIndex((byte) => byte !== 7), -1, "what was written is ours");
  }
});

Deno.test("buffers become the server's in the order in which they are given, however long it takes", async () => {
  const lender = new Lender();
  await using buffers = new LentBuffers(lender.access, "write");
  const first = Promise.withResolvers<void>();
  lender.slow = first.promise;
  const order: number[] = [];
  const slow = buffers.give(0).then(() => order.push(0));
  lender.slow = Promise.resolve();
  const quick = buffers.give(1).then(() => order.push(1));
  while (lender.open.size === 0) await Promise.resolve();
  first.resolve();
  await Promise.all([slow, quick]);
  assertEquals(order, [0, 1]);
});

Deno.test("the memory stays until nothing is being granted any more, and nothing is open then", async () => {
  const lender = new Lender();
  const granted = Promise.withResolvers<void>();
  lender.slow = granted.promise;
  const buffers = new LentBuffers(lender.access, "write");
  const giving = buffers.give(0);
  const disposed = buffers[Symbol.asyncDispose]();
  assertEquals(lender.lent.size, BUFFERS);
  granted.resolve();
  await Promise.all([giving, disposed]);
  assertEquals([lender.lent.size, lender.open.size, buffers.memory.bytes.length], [0, 0, 0]);
});

Deno.test("buffers of a session that may not have so much memory leave nothing behind", () => {
  const lender = new Lender();
  let left = BUFFERS - 1;
  const access = {
    lend: (...range: Parameters<ServiceAccess["lend"]>) => {
      if (left-- === 0) throw new Error("too much");
      return lender.access.lend(...range);
    },
  } as ServiceAccess;
  assertThrows(() => new LentBuffers(access, "read"), Error, "too much");
  assertEquals(lender.lent.size, 0);
});

Deno.test("a grant that fails is told to who gives the buffer", async () => {
  const lender = new Lender();
  await using buffers = new LentBuffers(lender.access, "write");
  lender.slow = Promise.reject(new Error("no key left"));
  await assertRejects(() => buffers.give(0), Error, "no key left");
});
