import { decodeHex } from "@std/encoding/hex";
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
  decodeOffset,
  encodeGrantedBuffer,
  encodeGrantedChunk,
  fileReply,
} from "./file_protocol.ts";
import { LentBuffers } from "./lent_buffers.ts";
import { parse } from "./schema.ts";
import { Download, type Progress, Upload } from "./unfinished_transfers.ts";

/** The transfer under way. */
interface Transfer {
  readonly id: number;
  readonly message: (kind: MessageKind, body: Uint8Array) => void;
  readonly abort: (reason: Error) => void;
}

/** The client's side of the file service: lends buffers for the time of a transfer. */
export class FileClient implements ServiceDefinition, SessionService {
  readonly name = "files";
  readonly kinds = [
    MessageKind.FILE_BUFFER_FREE,
    MessageKind.FILE_CHUNK,
    MessageKind.FILE_OFFSET,
  ];
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
   * Copies a local file to the server; resolves when it is on the server's disk. It goes on when the
   * queue pair is replaced.
   *
   * @throws FileError about the local file, RefusedError about the remote one, IntegrityError
   * when the server received other bytes
   */
  async put(
    session: ClientSession,
    local: string,
    remote: string,
    progress?: Progress,
  ): Promise<Moved> {
    startedWith(this.#access, this.name); // without the service no file is looked at
    using upload = new Upload(local, remote, progress);
    return await this.move(session, upload);
  }

  /**
   * Copies a file of the server to a local one; resolves when it is on disk. The server may be
   * trusted with its bytes only: it is written under a temporary name until the hashes agree.
   *
   * @throws as {@linkcode put}
   */
  async get(
    session: ClientSession,
    remote: string,
    local: string,
    progress?: Progress,
  ): Promise<Moved> {
    startedWith(this.#access, this.name);
    using download = new Download(remote, local, progress);
    return await this.move(session, download);
  }

  /**
   * Begins a transfer, or goes on with one that has lost what carried it.
   *
   * @throws as {@linkcode put}
   */
  async move(session: ClientSession, unfinished: Upload | Download): Promise<Moved> {
    for (;;) {
      try {
        return await session.repeating(() => this.#attempt(session, unfinished));
      } catch (error) {
        if (!unfinished.beginsAgain(error)) throw error;
      }
    }
  }

  #attempt(session: ClientSession, unfinished: Upload | Download): Promise<Moved> {
    return this.#run((access, transfer) =>
      unfinished instanceof Upload
        ? this.#put(access, session, transfer, unfinished)
        : this.#get(access, session, transfer, unfinished)
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
    upload: Upload,
  ): Promise<Moved> {
    const { file, hash, progress } = upload;
    await using buffers = new LentBuffers(access, "read");
    using plain = new ChunkBuffers(access, transfer, buffers.memory, buffers.window);
    const unconfirmed: number[] = [];
    const source = new ChunkSource(file, plain.memory, plain.bytes, async (chunk) => {
      plain.seal(chunk);
      const rkey = await buffers.give(chunk.buffer, plain.sharedBytes(chunk));
      unconfirmed.push(chunk.offset + chunk.length);
      access.send(MessageKind.FILE_CHUNK, transfer, encodeGrantedChunk({ ...chunk, rkey }));
    }, hash);
    let freed = 0;
    let received = 0;
    /** Ended by the server, or with the session: the server is told nothing, and may keep what it has. */
    let ended = false;
    const begun = Promise.withResolvers<void>();
    this.#current = {
      id: transfer,
      message: (kind, body) => {
        if (kind === MessageKind.FILE_OFFSET && freed === 0) {
          received = decodeOffset(body, file.size);
          return;
        }
        if (kind !== MessageKind.FILE_BUFFER_FREE) throw outOfTurn(kind);
        begun.resolve();
        const buffer = decodeBuffer(body, BUFFERS);
        buffers.takeBack(buffer)
          .then(() => source.bufferFree(buffer), (error) => source.abort(error));
        // The first ones only begin; each later one confirms a chunk.
        if (++freed > BUFFERS) progress(unconfirmed.shift()!, file.size);
      },
      abort: (reason) => {
        ended = true;
        source.abort(reason);
        begun.reject(reason);
      },
    };
    const reply = session.request("files", {
      operation: "put",
      transfer,
      path: upload.remote,
      size: String(file.size),
      window: buffers.window,
      token: upload.token,
    });
    reply.catch(this.#current.abort);
    // Messages may be faster than the REQUEST: the server must have begun, also for an empty file.
    await begun.promise;
    goOn(upload, received);
    const moved = await source.run().catch((error) => {
      if (!ended) access.send(MessageKind.FILE_ABORT, transfer, new Uint8Array(0));
      throw error;
    });
    access.send(MessageKind.FILE_END, transfer, decodeHex(moved.sha256));
    return agreeing(moved, await answered(reply));
  }

  async #get(
    access: ServiceAccess,
    session: ClientSession,
    transfer: number,
    download: Download,
  ): Promise<Moved> {
    const { target, hash, progress } = download;
    const offset = hash.length;
    if (offset > 0) download.resumed();
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
      hash,
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
          path: download.remote,
          window: buffers.window,
          ...(offset > 0 ? { offset: String(offset) } : {}),
          rkeys,
        })),
        failed.promise,
      ]);
      if (reply.size > sink.written) await Promise.race([complete.promise, failed.promise]);
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

/** The server has so much of the file. */
function goOn(upload: Upload, received: number): void {
  const { hash, progress, file } = upload;
  if (!hash.rewind(received)) {
    throw new ProtocolError("offset", `the server says that it has ${received} bytes of the file`);
  }
  if (received === 0) return;
  upload.resumed();
  progress(received, file.size);
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
