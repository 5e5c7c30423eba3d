import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { ProtocolError } from "../../lib/errors.ts";
import {
  BUFFER_BYTES,
  BUFFERS,
  type Chunk,
  decodeBuffer,
  decodeChunk,
  decodeGrantedBuffer,
  decodeGrantedChunk,
  encodeBuffer,
  encodeChunk,
  encodeGrantedBuffer,
  encodeGrantedChunk,
} from "../../lib/services/file_protocol.ts";

/** Chunks that fit the buffers and their file. */
const chunks: fc.Arbitrary<Chunk> = fc.record({
  buffer: fc.integer({ min: 0, max: BUFFERS - 1 }),
  length: fc.integer({ min: 1, max: BUFFER_BYTES }),
  offset: fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER - 2 * BUFFER_BYTES }),
}).chain((chunk) =>
  fc.integer({ min: 0, max: BUFFER_BYTES })
    .map((rest) => ({ ...chunk, size: chunk.offset + chunk.length + rest }))
);

const rkeys = fc.integer({ min: 0, max: 2 ** 32 - 1 });

const decode = (message: Uint8Array) => decodeChunk(message, BUFFERS, BUFFER_BYTES);

Deno.test("chunks come out as they went in", () => {
  fc.assert(fc.property(chunks, (chunk) => assertEquals(decode(encodeChunk(chunk)), chunk)));
});

Deno.test("chunks and buffers that are granted bring their key, and are checked as others are", () => {
  fc.assert(fc.property(chunks, rkeys, (chunk, rkey) => {
    const { buffer } = chunk;
    const granted = { ...chunk, rkey };
    const message = encodeGrantedChunk(granted);
    assertEquals(decodeGrantedChunk(message, BUFFERS, BUFFER_BYTES), granted);
    const free = encodeGrantedBuffer({ buffer, rkey });
    assertEquals(decodeGrantedBuffer(free, BUFFERS), { buffer, rkey });
    const wrong = [
      () => decodeGrantedChunk(message.subarray(1), BUFFERS, BUFFER_BYTES),
      () => decodeGrantedChunk(encodeChunk(chunk), BUFFERS, BUFFER_BYTES),
      () => decodeGrantedChunk(message, buffer, BUFFER_BYTES),
      () => decodeChunk(message, BUFFERS, BUFFER_BYTES),
      () => decodeGrantedBuffer(free, buffer),
      () => decodeGrantedBuffer(encodeBuffer(buffer), BUFFERS),
      () => decodeBuffer(free, BUFFERS),
    ];
    for (const take of wrong) assertThrows(take, ProtocolError);
  }));
});

Deno.test("whatever bytes come, they are a granted chunk or buffer, or refused with a name", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 32 }), (bytes) => {
    for (
      const take of [
        () => decodeGrantedChunk(bytes, BUFFERS, BUFFER_BYTES),
        () => decodeGrantedBuffer(bytes, BUFFERS),
      ]
    ) {
      try {
        assertEquals(take().buffer < BUFFERS, true);
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error;
      }
    }
  }));
});

Deno.test("a chunk that does not fit the buffers or the file is refused", () => {
  const chunk = { buffer: 0, length: 10, offset: 90, size: 100 };
  const lies: Partial<Chunk>[] = [
    { buffer: BUFFERS },
    { length: 0 },
    { length: BUFFER_BYTES + 1, size: 2 ** 30 },
    { offset: 91 },
    { size: 99 },
    { offset: 2 ** 63, size: 2 ** 63 + 2 ** 20 },
  ];
  for (const lie of lies) {
    assertThrows(() => decode(encodeChunk({ ...chunk, ...lie })), ProtocolError, "chunk");
  }
});

Deno.test("whatever bytes come, they are a chunk that fits or refused with a name", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 32 }), (bytes) => {
    try {
      const { buffer, length, offset, size } = decode(bytes);
      assertEquals(
        [buffer < BUFFERS, length <= BUFFER_BYTES, offset + length <= size],
        [true, true, true],
      );
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
    }
  }));
});

Deno.test("buffers come out as they went in, and only those that there are", () => {
  for (let buffer = 0; buffer < BUFFERS; buffer++) {
    assertEquals(decodeBuffer(encodeBuffer(buffer), BUFFERS), buffer);
  }
  for (const bytes of [encodeBuffer(BUFFERS), new Uint8Array(3), new Uint8Array(5)]) {
    assertThrows(() => decodeBuffer(bytes, BUFFERS), ProtocolError, "no buffer");
  }
});
