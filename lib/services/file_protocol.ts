import * as v from "valibot";
import { ProtocolError } from "../errors.ts";
import { decodeBase64Url } from "@std/encoding/base64url";
import { decimal, u32 } from "./schema.ts";

/**
 * The client's buffers, and bytes of each; the server pins no more for a transfer. What passes between
 * threads and peers for each chunk costs less the longer chunks are, and with fewer at once one side
 * waits for the other.
 */
export const BUFFERS = 5;
export const BUFFER_BYTES = 2 ** 19;

/** Bytes of the token by which a put is gone on with. */
export const TOKEN_BYTES = 16;

const token = v.pipe(
  v.string(),
  v.regex(/^[\w-]{22}$/),
  v.check((text) => decodeBase64Url(text).length === TOKEN_BYTES),
);

const window = v.strictObject({
  /** Of the first buffer; the others follow it. */
  address: decimal,
  buffers: v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(BUFFERS)),
  bufferBytes: v.pipe(v.number(), v.integer(), v.minValue(2 ** 16), v.maxValue(BUFFER_BYTES)),
});

const path = v.pipe(v.string(), v.minLength(1), v.maxLength(4096));

/** REQUESTs of the file service; the REPLY comes when the file is complete. */
export const fileRequest = v.variant("operation", [
  v.strictObject({
    operation: v.literal("put"),
    transfer: u32,
    path,
    size: decimal,
    window,
    /** Random. The server tells in FILE_OFFSET what it has from an earlier put with the same one. */
    token: v.optional(token),
  }),
  v.pipe(
    v.strictObject({
      operation: v.literal("get"),
      transfer: u32,
      path,
      window,
      /** Bytes that the client has from an earlier get. */
      offset: v.optional(decimal),
      /** Of the grants that the server begins with, one for each buffer. */
      rkeys: v.array(u32),
    }),
    v.check(({ window, rkeys }) => rkeys.length === window.buffers, "not one rkey a buffer"),
  ),
]);

export type FileRequest = v.InferOutput<typeof fileRequest>;
export type FileWindow = v.InferOutput<typeof window>;

/** The REPLY: what was moved. */
export const fileReply = v.strictObject({
  size: decimal,
  /** Of the source, 64 hexadecimal digits. */
  sha256: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)),
});

/** Part of a file that stands in a buffer. */
export interface Chunk {
  readonly buffer: number;
  readonly length: number;
  readonly offset: number;
  /** Bytes of the whole file. */
  readonly size: number;
}

/** A chunk that the server may READ. */
export interface GrantedChunk extends Chunk {
  readonly rkey: number;
}

/** A buffer that the server may WRITE a chunk to. */
export interface GrantedBuffer {
  readonly buffer: number;
  readonly rkey: number;
}

const CHUNK_MESSAGE_BYTES = 24;
const BUFFER_MESSAGE_BYTES = 4;
const RKEY_BYTES = 4;

/** u32 buffer, u32 length, u64 offset, u64 size, big-endian. */
export function encodeChunk({ buffer, length, offset, size }: Chunk): Uint8Array {
  const body = new DataView(new ArrayBuffer(CHUNK_MESSAGE_BYTES));
  body.setUint32(0, buffer);
  body.setUint32(4, length);
  body.setBigUint64(8, BigInt(offset));
  body.setBigUint64(16, BigInt(size));
  return new Uint8Array(body.buffer);
}

/** @throws ProtocolError when the chunk does not fit the buffers or the file */
export function decodeChunk(message: Uint8Array, buffers: number, bufferBytes: number): Chunk {
  if (message.length !== CHUNK_MESSAGE_BYTES) {
    throw new ProtocolError("chunk", `chunk message of ${message.length} bytes`);
  }
  const body = new DataView(message.buffer, message.byteOffset, message.length);
  const chunk = {
    buffer: body.getUint32(0),
    length: body.getUint32(4),
    offset: Number(body.getBigUint64(8)),
    size: Number(body.getBigUint64(16)),
  };
  const { buffer, length, offset, size } = chunk;
  const fits = buffer < buffers && length >= 1 && length <= bufferBytes &&
    offset + length <= size && Number.isSafeInteger(size);
  if (fits) return chunk;
  throw new ProtocolError(
    "chunk",
    `chunk of ${length} bytes at ${offset} of ${size} in buffer ${buffer}`,
  );
}

/** u64 bytes that the server has of the file, big-endian. */
export function encodeOffset(offset: number): Uint8Array {
  const body = new DataView(new ArrayBuffer(8));
  body.setBigUint64(0, BigInt(offset));
  return new Uint8Array(body.buffer);
}

/** @throws ProtocolError when it is not within the file */
export function decodeOffset(message: Uint8Array, size: number): number {
  const offset = message.length === 8
    ? Number(new DataView(message.buffer, message.byteOffset, 8).getBigUint64(0))
    : Infinity;
  if (offset > size) throw new ProtocolError("offset", `offset ${offset} of ${size} bytes`);
  return offset;
}

export function encodeBuffer(buffer: number): Uint8Array {
  const body = new DataView(new ArrayBuffer(BUFFER_MESSAGE_BYTES));
  body.setUint32(0, buffer);
  return new Uint8Array(body.buffer);
}

/** @throws ProtocolError when there is no such buffer */
export function decodeBuffer(message: Uint8Array, buffers: number): number {
  const buffer = message.length === BUFFER_MESSAGE_BYTES
    ? new DataView(message.buffer, message.byteOffset, message.length).getUint32(0)
    : buffers;
  if (buffer >= buffers) throw new ProtocolError("buffer", `there is no buffer ${buffer}`);
  return buffer;
}

/** A chunk as {@linkcode encodeChunk} has it, u32 rkey. */
export function encodeGrantedChunk(chunk: GrantedChunk): Uint8Array {
  return withRkey(encodeChunk(chunk), chunk.rkey);
}

/** @throws ProtocolError as {@linkcode decodeChunk} */
export function decodeGrantedChunk(
  message: Uint8Array,
  buffers: number,
  bufferBytes: number,
): GrantedChunk {
  const [rest, rkey] = partRkey(message, CHUNK_MESSAGE_BYTES, "chunk");
  return { ...decodeChunk(rest, buffers, bufferBytes), rkey };
}

/** u32 buffer, u32 rkey, big-endian. */
export function encodeGrantedBuffer({ buffer, rkey }: GrantedBuffer): Uint8Array {
  return withRkey(encodeBuffer(buffer), rkey);
}

/** @throws ProtocolError as {@linkcode decodeBuffer} */
export function decodeGrantedBuffer(message: Uint8Array, buffers: number): GrantedBuffer {
  const [rest, rkey] = partRkey(message, BUFFER_MESSAGE_BYTES, "buffer");
  return { buffer: decodeBuffer(rest, buffers), rkey };
}

function withRkey(message: Uint8Array, rkey: number): Uint8Array {
  const body = new Uint8Array(message.length + RKEY_BYTES);
  body.set(message);
  new DataView(body.buffer).setUint32(message.length, rkey);
  return body;
}

function partRkey(message: Uint8Array, at: number, code: string): [Uint8Array, rkey: number] {
  if (message.length !== at + RKEY_BYTES) {
    throw new ProtocolError(code, `${code} granted in a message of ${message.length} bytes`);
  }
  return [
    message.subarray(0, at),
    new DataView(message.buffer, message.byteOffset + at, RKEY_BYTES).getUint32(0),
  ];
}
