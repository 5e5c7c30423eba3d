import { ProtocolError } from "../errors.ts";

/** Types of control frames, by number on the wire. */
export const FrameType = {
  HELLO: 1,
  SECRET: 2,
  WELCOME: 3,
  QP: 4,
  READY: 5,
  REQUEUE: 6,
  PING: 7,
  PONG: 8,
  REQUEST: 9,
  REPLY: 10,
  ERROR: 11,
  BYE: 12,
} as const;

export type FrameName = keyof typeof FrameType;

const namesByType = new Map<number, FrameName>(
  Object.entries(FrameType).map(([name, type]) => [type, name as FrameName]),
);

/** Bytes of a frame before its body: type and length, u32 each, big-endian. */
export const HEADER_BYTES = 8;

/** Bytes of a body at most. */
export const MAX_BODY_BYTES = 65536;

/** One control frame: its name, its body, and all its bytes as they travel. */
export interface Frame {
  readonly name: FrameName;
  readonly body: Uint8Array<ArrayBuffer>;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** Makes a frame. The body must not exceed {@linkcode MAX_BODY_BYTES}. */
export function makeFrame(name: FrameName, body: Uint8Array): Frame {
  if (body.length > MAX_BODY_BYTES) {
    throw new RangeError(`body of ${body.length} bytes in a ${name} frame`);
  }
  const bytes = new Uint8Array(HEADER_BYTES + body.length);
  const header = new DataView(bytes.buffer);
  header.setUint32(0, FrameType[name]);
  header.setUint32(4, body.length);
  bytes.set(body, HEADER_BYTES);
  return { name, body: bytes.subarray(HEADER_BYTES), bytes };
}

/** Cuts a stream of bytes into frames. It never holds more than one frame and the chunk given last. */
export class FrameDecoder {
  #pending = new Uint8Array(0);

  /**
   * Takes what was received and returns the frames that are complete.
   *
   * @throws ProtocolError on an unknown type or an oversized length, as soon as the header is there
   */
  push(chunk: Uint8Array): Frame[] {
    const bytes = new Uint8Array(this.#pending.length + chunk.length);
    bytes.set(this.#pending);
    bytes.set(chunk, this.#pending.length);
    const frames: Frame[] = [];
    let at = 0;
    while (bytes.length - at >= HEADER_BYTES) {
      const { name, length } = readHeader(new DataView(bytes.buffer, at, HEADER_BYTES));
      const end = at + HEADER_BYTES + length;
      if (end > bytes.length) break;
      frames.push({
        name,
        body: bytes.subarray(at + HEADER_BYTES, end),
        bytes: bytes.subarray(at, end),
      });
      at = end;
    }
    this.#pending = bytes.slice(at);
    return frames;
  }

  /** Whether the stream may end here: not within a frame. */
  get atBoundary(): boolean {
    return this.#pending.length === 0;
  }
}

function readHeader(header: DataView): { name: FrameName; length: number } {
  const type = header.getUint32(0);
  const length = header.getUint32(4);
  const name = namesByType.get(type);
  if (name === undefined) {
    throw new ProtocolError("frame_type", `frame of unknown type ${type}`);
  }
  if (length > MAX_BODY_BYTES) {
    throw new ProtocolError(
      "frame_length",
      `${name} frame of ${length} bytes, more than ${MAX_BODY_BYTES}`,
    );
  }
  return { name, length };
}
