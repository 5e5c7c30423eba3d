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

/**
 * Cuts a stream of bytes into frames, and copies each byte once: a frame has bytes of its own, made
 * as soon as its header says how many, so that whoever takes it can wipe it.
 */
export class FrameDecoder {
  readonly #header = new DataView(new ArrayBuffer(HEADER_BYTES));
  /** Where the next bytes go: the header, or the frame that it announced. */
  #target = new Uint8Array(this.#header.buffer);
  #filled = 0;
  #name: FrameName | undefined;

  /**
   * Takes what was received and returns the frames that are complete.
   *
   * @throws ProtocolError on an unknown type or an oversized length, as soon as the header is there
   */
  push(chunk: Uint8Array): Frame[] {
    const frames: Frame[] = [];
    for (let at = 0; at < chunk.length;) {
      const count = Math.min(this.#target.length - this.#filled, chunk.length - at);
      this.#target.set(chunk.subarray(at, at + count), this.#filled);
      this.#filled += count;
      at += count;
      if (this.#filled === HEADER_BYTES && this.#name === undefined) this.#begin();
      if (this.#filled === this.#target.length) frames.push(this.#end());
    }
    return frames;
  }

  /** Whether the stream may end here: not within a frame. */
  get atBoundary(): boolean {
    return this.#filled === 0;
  }

  #begin(): void {
    const { name, length } = readHeader(this.#header);
    // Short arrays without a buffer of their own stand in JavaScript's heap, which moves and leaves copies.
    const bytes = new Uint8Array(new ArrayBuffer(HEADER_BYTES + length));
    bytes.set(this.#target);
    this.#name = name;
    this.#target = bytes;
  }

  #end(): Frame {
    const bytes = this.#target;
    const frame = { name: this.#name!, body: bytes.subarray(HEADER_BYTES), bytes };
    this.#name = undefined;
    this.#target = new Uint8Array(this.#header.buffer);
    this.#filled = 0;
    return frame;
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
