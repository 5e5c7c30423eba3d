import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  FrameDecoder,
  type FrameName,
  FrameType,
  makeFrame,
  MAX_BODY_BYTES,
} from "../../lib/control/frame.ts";
import { ProtocolError } from "../../lib/errors.ts";

const frames = fc.array(fc.record({
  name: fc.constantFrom(...Object.keys(FrameType) as FrameName[]),
  body: fc.uint8Array({ maxLength: 300 }),
}));

Deno.test("frames come out as they went in, however the stream is cut", () => {
  fc.assert(
    fc.property(frames, fc.infiniteStream(fc.integer({ min: 1, max: 50 })), (sent, cuts) => {
      const stream = new Uint8Array(
        sent.flatMap(({ name, body }) => [...makeFrame(name, body).bytes]),
      );
      const decoder = new FrameDecoder();
      const received = [];
      for (let at = 0; at < stream.length;) {
        const end = at + cuts.next().value!;
        received.push(...decoder.push(stream.subarray(at, end)));
        at = end;
      }
      assertEquals(
        received.map(({ name, body }) => ({ name, body: [...body] })),
        sent.map(({ name, body }) => ({ name, body: [...body] })),
      );
      assertEquals(decoder.atBoundary, true);
    }),
  );
});

/** Bytes that are copied into arrays meanwhile. */
function bytesCopied(work: () => void): number {
  let copied = 0;
  const set = Uint8Array.prototype.set;
  Uint8Array.prototype.set = function (from, at): void {
    copied += from.length;
    set.call(this, from, at);
  };
  try {
    work();
  } finally {
    Uint8Array.prototype.set = set;
  }
  return copied;
}

Deno.test("a frame in pieces of one byte costs no more copies than in one piece", () => {
  const { bytes } = makeFrame("REQUEST", new Uint8Array(MAX_BODY_BYTES).fill(7));
  const decoder = new FrameDecoder();
  const received: Uint8Array[] = [];
  const inPieces = bytesCopied(() => {
    for (let at = 0; at < bytes.length; at++) {
      received.push(...decoder.push(bytes.subarray(at, at + 1)).map((frame) => frame.bytes));
    }
  });
  assertEquals(received, [bytes]);
  assertEquals(inPieces, bytesCopied(() => new FrameDecoder().push(bytes)));
});

Deno.test("a frame is wiped where it is: nothing else stands in its memory, and it in no other", () => {
  const bytes = makeFrame("SECRET", new Uint8Array(32).fill(7)).bytes;
  const [first, second] = new FrameDecoder().push(new Uint8Array([...bytes, ...bytes]));
  first!.body.fill(0);
  assertEquals(first!.bytes.buffer.byteLength, bytes.length);
  assertEquals(second!.bytes, bytes);
});

Deno.test("a frame of 4 GiB is refused as soon as its header is there", () => {
  const header = new Uint8Array([0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]);
  const error = assertThrows(() => new FrameDecoder().push(header), ProtocolError);
  assertEquals(error.code, "frame_length");
});

Deno.test("a frame of unknown type is refused", () => {
  const error = assertThrows(
    () => new FrameDecoder().push(new Uint8Array([0, 0, 0, 99, 0, 0, 0, 0])),
    ProtocolError,
  );
  assertEquals(error.code, "frame_type");
});

Deno.test("a stream that ends within a frame is noticed", () => {
  const decoder = new FrameDecoder();
  decoder.push(makeFrame("PING", new Uint8Array(9)).bytes.subarray(0, 12));
  assertEquals(decoder.atBoundary, false);
});

Deno.test("whatever bytes come, the decoder gives frames or a named error", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
    try {
      new FrameDecoder().push(bytes);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
    }
  }));
});
