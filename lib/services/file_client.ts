import { decodeHex } from "@std/encoding/hex";
import { basename, dirname } from "node:path";
import { IntegrityError, ProtocolError, RefusedError } from "../errors.ts";
import type { ClientSession } from "../session/client_session.ts";
import {
  MessageKind,
  type ServiceAccess,
  type ServiceDefinition,
  type SessionService,
  startedWith,
} from "../session/service.ts";
import { ChunkBuffers } from "./chunk_buffers.ts";
import { ChunkSink } from "./chunk_sink.ts";
import { ChunkSource, type Moved } from "./chunk_source.ts";
import {
  BUFFERS,
  decodeBuffer,
  decodeChunk,
  encodeGrantedBuffer,
  encodeGrantedChunk,
  fileReply,
} from "./file_protocol.ts";
import { Directory } from "./file_system.ts";
import { LentBuffers } from "./lent_buffers.ts";
import { parse } from "./schema.ts";

/** Told of progress: bytes that are safe with the receiver, of bytes in all. */
export type Progress = (bytes: number, size: number) => void;

/** The transfer under way. */
interface Transfer {
  readonly id: number;
  readonly message: (kind: MessageKind, body: Uint8Array) => void;
  readonly abort: (reason: Error) => void;
}

/** The client's side of the file service: lends buffers for the time of a transfer. */
export class FileClient implements ServiceDefinition, SessionService {
  readonly name = "files";
  readonly kinds = [MessageKind.FILE_BUFFER_FREE, MessageKind.FILE_CHUNK];
  #access: ServiceAccess | undefined;
  #current: Transfer | undefined;
  #running: Promise<unknown> = Promise.resolve();
  #lastTransfer = 0;

  start(access: ServiceAccess): this {
    this.#access = access;
    access.signal.addEventListener(
      "abort",
      () => this.#current?.abort(access.signal.reason),
      { once: true },
    );
    return this;
  }

  message(kind: MessageKind, id: number, body: Uint8Array): void {
    if (this.#current?.id === id) this.#current.message(kind, body);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#running;
  }

  /**
   * Copies a local file to the server; resolves when it is on the server's disk.
   *
   * @throws FileError about the local file, RefusedError about the remote one, IntegrityError
   * when the server received other bytes
   */
  put(
    session: ClientSession,
    local: string,
    remote: string,
    progress: Progress = () => {},
  ): Promise<Moved> {
    return this.#run((access, transfer) =>
      this.#put(access, session, transfer, local, remote, progress)
    );
  }

  /**
   * Copies a file of the server to a local one; resolves when it is on disk. The server may be
   * trusted with its bytes only: it is written under a temporary name until the hashes agree.
   *
   * @throws as {@linkcode put}
   */
  get(
    session: ClientSession,
    remote: string,
    local: string,
    progress: Progress = () => {},
  ): Promise<Moved> {
    return this.#run((access, transfer) =>
      this.#get(access, session, transfer, remote, local, progress)
    );
  }

  async #run(
    move: (access: ServiceAccess, transfer: number) => Promise<Moved>,
  ): Promise<Moved> {
    const moving = move(startedWith(this.#access, this.name), ++this.#lastTransfer);
    this.#running = moving.catch(() => {});
    try {
      return await moving;
    } finally {
      this.#current = undefined;
    }
  }

  async #put(
    access: ServiceAccess,
    session: ClientSession,
    transfer: number,
    local: string,
    remote: string,
    progress: Progress,
  ): Promise<Moved> {
    using directory = new Directory(dirname(local), { confined: false });
    using file = directory.openFile(basename(local));
    await using buffers = new LentBuffers(access, "read");
    using plain = new ChunkBuffers(access, transfer, buffers.memory, buffers.window);
    const unconfirmed: number[] = [];
    const source = new ChunkSource(file, plain.memory, plain.bytes, async (chunk) => {
      plain.seal(chunk);
      const rkey = await buffers.give(chunk.buffer, plain.sharedBytes(chunk));
      unconfirmed.push(chunk.offset + chunk.length);
      access.send(MessageKind.FILE_CHUNK, transfer, encodeGrantedChunk({ ...chunk, rkey }));
    });
    let freed = 0;
    const begun = Promise.withResolvers<void>();
    this.#current = {
      id: transfer,
      message: (kind, body) => {
        if (kind !== MessageKind.FILE_BUFFER_FREE) throw outOfTurn(kind);
        begun.resolve();
        const buffer = decodeBuffer(body, BUFFERS);
        buffers.takeBack(buffer)
          .then(() => source.bufferFree(buffer), (error) => source.abort(error));
        // The first ones only begin; each later one confirms a chunk.
        if (++freed > BUFFERS) progress(unconfirmed.shift()!, file.size);
      },
      abort: (reason) => {
        source.abort(reason);
        begun.reject(reason);
      },
    };
    const reply = session.request("files", {
      operation: "put",
      transfer,
      path: remote,
      size: String(file.size),
      window: buffers.window,
    });
    reply.catch(this.#current.abort);
    // Messages may be faster than the REQUEST: the server must have begun, also for an empty file.
    await begun.promise;
    const moved = await source.run().catch((error) => {
      if (!access.signal.aborted) access.send(MessageKind.FILE_ABORT, transfer, new Uint8Array(0));
      throw error;
    });
    access.send(MessageKind.FILE_END, transfer, decodeHex(moved.sha256));
    return agreeing(moved, await answered(reply));
  }

  async #get(
    access: ServiceAccess,
    session: ClientSession,
    transfer: number,
    remote: string,
    local: string,
    progress: Progress,
  ): Promise<Moved> {
    using directory = new Directory(dirname(local), { confined: false });
    using target = directory.createFile(basename(local));
    await using buffers = new LentBuffers(access, "write");
    using plain = new ChunkBuffers(access, transfer, buffers.memory, buffers.window);
    const failed = Promise.withResolvers<never>();
    failed.promise.catch(() => {}); // it may come before somebody waits
    const complete = Promise.withResolvers<void>();
    const giveBack = async (buffer: number) => {
      const rkey = await buffers.give(buffer);
      const granted = encodeGrantedBuffer({ buffer, rkey });
      access.send(MessageKind.FILE_BUFFER_FREE, transfer, granted);
    };
    const sink = new ChunkSink(
      target.file,
      plain.memory,
      plain.bytes,
      // What is opened, hashed and written is out of the server's reach.
      (chunk) => plain.open(chunk, buffers.takeBack(chunk.buffer)),
      (buffer, written, size) => {
        progress(written, size);
        if (written === size) complete.resolve();
        else giveBack(buffer).catch(failed.reject);
      },
    );
    this.#current = {
      id: transfer,
      message: (kind, body) => {
        if (kind !== MessageKind.FILE_CHUNK) throw outOfTurn(kind);
        sink.take(decodeChunk(body, BUFFERS, plain.bytes)).catch(failed.reject);
      },
      abort: failed.reject,
    };
    try {
      const rkeys = await Promise.all(Array.from({ length: BUFFERS }, (_, at) => buffers.give(at)));
      const reply = await Promise.race([
        answered(session.request("files", {
          operation: "get",
          transfer,
          path: remote,
          window: buffers.window,
          rkeys,
        })),
        failed.promise,
      ]);
      if (reply.size > 0) await Promise.race([complete.promise, failed.promise]);
      const moved = agreeing(await sink.finish(), reply);
      await target.commit();
      return moved;
    } catch (error) {
      if (!access.signal.aborted) access.send(MessageKind.FILE_ABORT, transfer, new Uint8Array(0));
      throw error;
    } finally {
      this.#current = undefined;
      await sink.settled();
    }
  }
}

function outOfTurn(kind: MessageKind): ProtocolError {
  return new ProtocolError("message_kind", `message of kind ${kind} in a transfer`);
}

async function answered(reply: Promise<unknown>): Promise<Moved> {
  try {
    const { size, sha256 } = parse(fileReply, await reply);
    return { size: Number(size), sha256 };
  } catch (error) {
    if (!(error instanceof RefusedError && error.code === "sha256")) throw error;
    throw new IntegrityError(error.code, `the server says: ${error.message}`);
  }
}

/** @throws IntegrityError when the two sides moved different bytes */
function agreeing(ours: Moved, theirs: Moved): Moved {
  if (ours.size === theirs.size && ours.sha256 === theirs.sha256) return ours;
  throw new IntegrityError(
    "sha256",
    `source and target differ: ${theirs.size} bytes with SHA-256 ${theirs.sha256} at the server, ` +
      `${ours.size} bytes with ${ours.sha256} here`,
    "transfer the file again",
  );
}
