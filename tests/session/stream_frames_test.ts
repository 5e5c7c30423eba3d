import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { ProtocolError } from "../../lib/errors.ts";
import {
  type FrameHeader,
  FrameParser,
  type FrameSink,
  FrameType,
  HEADER_BYTES,
  SEGMENT_BYTES,
  writeHeader,
} from "../../lib/session/stream_frames.ts";

const MESSAGE_BYTES = 100_000;

/** Takes down what frames say, as text. */
class Notes implements FrameSink {
  readonly lines: string[] = [];
  #bytes: number[] = [];

  message(kind: number, id: number, body: Uint8Array): void {
    this.lines.push(`message ${kind} ${id} ${body.join()}`);
  }

  segment(header: FrameHeader): void {
    this.lines.push(`begin ${text(header)}`);
    this.#bytes = [];
  }

  piece(_header: FrameHeader, at: number, bytes: Uint8Array): void {
    assertEquals(at, this.#bytes.length);
    this.#bytes.push(...bytes);
  }

  segmentEnd(header: FrameHeader): void {
    this.lines.push(`end ${text(header)} ${this.#bytes.join()}`);
  }

  control(header: FrameHeader): void {
    this.lines.push(text(header));
  }
}

function text({ type, kind, id, key, length, offset }: FrameHeader): string {
  return [type, kind, id, key, length, offset].join(" ");
}

function frame(header: Partial<FrameHeader>, payload = new Uint8Array(0)): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + payload.length);
  const bare = { type: FrameType.MESSAGE, kind: 0, id: 0, key: 0, offset: 0 };
  writeHeader(new DataView(bytes.buffer), 0, { ...bare, length: payload.length, ...header });
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

const u32 = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const offset = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER - 2 ** 33 });
const payload = fc.uint8Array({ minLength: 1, maxLength: 60 });
const anyFrame: fc.Arbitrary<Uint8Array> = fc.oneof(
  fc.record({ kind: fc.integer({ min: 0, max: 255 }), id: u32, body: fc.uint8Array() })
    .map(({ body, ...header }) => frame(header, body)),
  fc.record({ kind: fc.constantFrom(0, 1), id: u32, key: u32, offset, body: payload })
    .map(({ body, ...header }) => frame({ ...header, type: FrameType.WRITE }, body)),
  fc.record({ kind: fc.constantFrom(0, 1), id: u32, offset, body: payload })
    .map(({ body, ...header }) => frame({ ...header, type: FrameType.DATA }, body)),
  fc.record({ id: u32, key: u32, offset, length: fc.integer({ min: 1, max: 2 ** 32 - 1 }) })
    .map((header) => frame({ ...header, type: FrameType.READ })),
  u32.map((id) => frame({ id, type: FrameType.WRITTEN })),
);

Deno.test("frames come out as they went in, however the stream is cut", () => {
  fc.assert(fc.property(
    fc.array(anyFrame, { maxLength: 8 }),
    fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 20 }),
    (frames, cuts) => {
      const whole = new Notes();
      for (const each of frames) new FrameParser(MESSAGE_BYTES, whole).push(each);
      const bytes = new Uint8Array(frames.flatMap((each) => [...each]));
      const cut = new Notes();
      const parser = new FrameParser(MESSAGE_BYTES, cut);
      for (let at = 0, turn = 0; at < bytes.length; turn++) {
        const end = at + cuts[turn % cuts.length]!;
        parser.push(bytes.slice(at, end));
        at = end;
      }
      assertEquals(cut.lines, whole.lines);
      assert(parser.atBoundary);
    },
  ));
});

Deno.test("whatever bytes come, the parser gives frames or a named error", () => {
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    // Nearly right: a frame with one byte changed.
    fc.tuple(anyFrame, fc.nat(HEADER_BYTES - 1), fc.integer({ min: 0, max: 255 }))
      .map(([frame, at, byte]) => frame.map((old, index) => index === at ? byte : old)),
  );
  fc.assert(fc.property(bytes, (bytes) => {
    try {
      new FrameParser(MESSAGE_BYTES, new Notes()).push(bytes);
    } catch (error) {
      assert(error instanceof ProtocolError, String(error));
    }
  }));
});

Deno.test("frames beyond the limits are refused by their header", () => {
  const wrong: [string, Partial<FrameHeader>][] = [
    ["message_length", { length: MESSAGE_BYTES + 1 }],
    ["frame_length", { type: FrameType.WRITE, length: SEGMENT_BYTES + 1 }],
    ["frame_length", { type: FrameType.WRITE, length: 0 }],
    ["frame_length", { type: FrameType.DATA, length: 2 ** 32 - 1 }],
    ["frame_length", { type: FrameType.READ, length: 0 }],
    ["frame_length", { type: FrameType.WRITTEN, length: 1 }],
    ["frame", { type: FrameType.WRITE, kind: 2, length: 1 }],
    ["frame", { type: FrameType.WRITE, length: 1, offset: Number.MAX_SAFE_INTEGER }],
    ["frame", { type: FrameType.MESSAGE, key: 1 }],
    ["frame", { type: FrameType.DATA, key: 1, length: 1 }],
    ["frame", { type: FrameType.SWITCH, id: 1 }],
    ["frame_type", { type: 7 as FrameType }],
    ["frame_type", { type: 0 as FrameType }],
  ];
  for (const [code, header] of wrong) {
    const parser = new FrameParser(MESSAGE_BYTES, new Notes());
    const error = assertThrows(() => parser.push(frame(header)), ProtocolError);
    assertEquals(error.code, code, JSON.stringify(header));
  }
});

Deno.test("nothing follows SWITCH, and a stream that ends within a frame is noticed", () => {
  const parser = new FrameParser(MESSAGE_BYTES, new Notes());
  parser.push(frame({ type: FrameType.SWITCH }));
  assert(parser.switched && parser.atBoundary);
  assertThrows(() => parser.push(new Uint8Array(1)), ProtocolError, "after SWITCH");
  const other = new FrameParser(MESSAGE_BYTES, new Notes());
  const bytes = frame({}, new Uint8Array(2));
  const boundaries = [...bytes].map((byte) => {
    other.push(Uint8Array.of(byte));
    return other.atBoundary;
  });
  assertEquals(boundaries.indexOf(true), bytes.length - 1);
});
