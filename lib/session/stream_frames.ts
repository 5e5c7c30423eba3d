/**
 * Frames of a data connection. TLS has sealed them: what is checked here is what the peer means.
 *
 * | frame | kind | id | key | length | offset | then |
 * | --- | --- | --- | --- | --- | --- | --- |
 * | MESSAGE | message kind | message id | | bytes | | the message |
 * | WRITE | 1 in the last of a transfer | transfer | registration | bytes | in the registration | the bytes |
 * | WRITTEN | | transfer | | | | |
 * | READ | | transfer | registration | bytes | in the registration | |
 * | DATA | 1 in the last of a transfer | transfer | | bytes | in the transfer | the bytes |
 * | SWITCH | | | | | | what follows comes on the session's next data connection |
 */
import { ProtocolError } from "../errors.ts";

/** Types of frames, by number on the wire. */
export const FrameType = {
  MESSAGE: 1,
  WRITE: 2,
  WRITTEN: 3,
  READ: 4,
  DATA: 5,
  SWITCH: 6,
} as const;

export type FrameType = typeof FrameType[keyof typeof FrameType];

/** u8 type, u8 kind, u16 zero, u32 id, u32 key, u32 length, u64 offset; big-endian. */
export const HEADER_BYTES = 24;

/** Bytes of a transfer that one frame carries at most. */
export const SEGMENT_BYTES = 2 ** 18;

/** A frame without the bytes that follow it. */
export interface FrameHeader {
  type: FrameType;
  kind: number;
  id: number;
  key: number;
  length: number;
  offset: number;
}

/** What a type of frame bears; all else of its header is zero. */
interface Fields {
  readonly name: string;
  readonly kind: number;
  readonly id: boolean;
  readonly key: boolean;
  readonly offset: boolean;
  /** Bytes follow. */
  readonly payload: boolean;
  readonly least: number;
  readonly most: number;
}

const bare = { kind: 0, id: true, key: false, offset: false, payload: false, least: 0, most: 0 };
const segment = { kind: 1, offset: true, payload: true, least: 1, most: SEGMENT_BYTES };

const fields: Readonly<Record<FrameType, Fields>> = {
  [FrameType.MESSAGE]: { ...bare, name: "MESSAGE", kind: 255, payload: true, most: 2 ** 32 - 1 },
  [FrameType.WRITE]: { ...bare, ...segment, name: "WRITE", key: true },
  [FrameType.WRITTEN]: { ...bare, name: "WRITTEN" },
  [FrameType.READ]: {
    ...bare,
    name: "READ",
    key: true,
    offset: true,
    least: 1,
    most: 2 ** 32 - 1,
  },
  [FrameType.DATA]: { ...bare, ...segment, name: "DATA" },
  [FrameType.SWITCH]: { ...bare, name: "SWITCH", id: false },
};

export function writeHeader(view: DataView, at: number, header: FrameHeader): void {
  view.setUint8(at, header.type);
  view.setUint8(at + 1, header.kind);
  view.setUint16(at + 2, 0);
  view.setUint32(at + 4, header.id);
  view.setUint32(at + 8, header.key);
  view.setUint32(at + 12, header.length);
  view.setUint32(at + 16, Math.floor(header.offset / 2 ** 32));
  view.setUint32(at + 20, header.offset >>> 0);
}

/** @throws ProtocolError when no frame begins so */
function readHeader(view: DataView, at: number, into: FrameHeader): Fields {
  const type = view.getUint8(at) as FrameType;
  const known = fields[type] as Fields | undefined;
  if (!known) throw new ProtocolError("frame_type", `data frame of unknown type ${type}`);
  into.type = type;
  into.kind = view.getUint8(at + 1);
  into.id = view.getUint32(at + 4);
  into.key = view.getUint32(at + 8);
  into.length = view.getUint32(at + 12);
  into.offset = view.getUint32(at + 16) * 2 ** 32 + view.getUint32(at + 20);
  const fits = view.getUint16(at + 2) === 0 && into.kind <= known.kind &&
    (known.id || into.id === 0) && (known.key || into.key === 0) &&
    (known.offset || into.offset === 0) && into.offset <= Number.MAX_SAFE_INTEGER - into.length;
  if (!fits) throw new ProtocolError("frame", `${known.name} with fields that it has not`);
  if (into.length < known.least || into.length > known.most) {
    throw new ProtocolError("frame_length", `${known.name} of ${into.length} bytes`);
  }
  return known;
}

/** Takes what frames say. Headers and bytes are valid only until a call returns. */
export interface FrameSink {
  message(kind: number, id: number, body: Uint8Array): void;
  /** A WRITE or DATA begins: where its bytes go, they come in pieces. */
  segment(header: FrameHeader): void;
  /** Some more of its bytes, `at` bytes from where it began. */
  piece(header: FrameHeader, at: number, bytes: Uint8Array): void;
  /** All of its bytes were given. */
  segmentEnd(header: FrameHeader): void;
  /** A frame without bytes. */
  control(header: FrameHeader): void;
}

/**
 * Cuts what comes on one connection into frames, however it comes. Holds one header and one message
 * at most.
 */
export class FrameParser {
  readonly #header: FrameHeader = {
    type: FrameType.SWITCH,
    kind: 0,
    id: 0,
    key: 0,
    length: 0,
    offset: 0,
  };
  readonly #pending = new Uint8Array(HEADER_BYTES);
  readonly #pendingView = new DataView(this.#pending.buffer);
  #pendingBytes = 0;
  #received = 0;
  /** In the bytes that follow a header. */
  #inPayload = false;
  #body: Uint8Array | undefined;
  #switched = false;

  /** @param messageBytes of a message at most */
  constructor(private readonly messageBytes: number, private readonly sink: FrameSink) {}

  /** Whether the peer goes on over the session's next connection. */
  get switched(): boolean {
    return this.#switched;
  }

  /** Whether the stream may end here: not within a frame. */
  get atBoundary(): boolean {
    return this.#pendingBytes === 0 && !this.#inPayload;
  }

  /**
   * Takes what was received.
   *
   * @throws ProtocolError when it is no frame, or the sink does not take it
   */
  push(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length;) {
      at = this.#inPayload ? this.#takePayload(chunk, at) : this.#takeHeader(chunk, at);
    }
  }

  #takeHeader(chunk: Uint8Array, at: number): number {
    if (this.#switched) throw new ProtocolError("frame", "bytes after SWITCH");
    const end = Math.min(chunk.length, at + HEADER_BYTES - this.#pendingBytes);
    this.#pending.set(chunk.subarray(at, end), this.#pendingBytes);
    this.#pendingBytes += end - at;
    if (this.#pendingBytes < HEADER_BYTES) return end;
    this.#pendingBytes = 0;
    const { payload } = readHeader(this.#pendingView, 0, this.#header);
    if (payload) this.#beginPayload();
    else if (this.#header.type === FrameType.SWITCH) this.#switched = true;
    else this.sink.control(this.#header);
    return end;
  }

  #beginPayload(): void {
    const { type, length, kind, id } = this.#header;
    if (type !== FrameType.MESSAGE) this.sink.segment(this.#header);
    else if (length > this.messageBytes) {
      const what = `message of ${length} bytes, more than ${this.messageBytes}`;
      throw new ProtocolError("message_length", what);
    } else if (length === 0) return this.sink.message(kind, id, nothing);
    this.#received = 0;
    this.#inPayload = true;
  }

  #takePayload(chunk: Uint8Array, at: number): number {
    const { type, length } = this.#header;
    const end = Math.min(chunk.length, at + length - this.#received);
    const piece = chunk.subarray(at, end);
    if (type === FrameType.MESSAGE) this.#takeMessage(piece);
    else this.sink.piece(this.#header, this.#received, piece);
    this.#received += piece.length;
    if (this.#received < length) return end;
    this.#inPayload = false;
    if (type === FrameType.MESSAGE) this.#endMessage(piece);
    else this.sink.segmentEnd(this.#header);
    return end;
  }

  /** A message that comes in one piece is not copied. */
  #takeMessage(piece: Uint8Array): void {
    const { length } = this.#header;
    if (piece.length === length) return;
    this.#body ??= new Uint8Array(length);
    this.#body.set(piece, this.#received);
  }

  #endMessage(piece: Uint8Array): void {
    const body = this.#body ?? piece;
    this.#body = undefined;
    this.sink.message(this.#header.kind, this.#header.id, body);
  }
}

const nothing = new Uint8Array(0);
