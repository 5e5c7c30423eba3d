import { encodeHex } from "@std/encoding/hex";
import { Memory } from "../../ffi/memory.ts";
import {
  errorText,
  IntegrityError,
  ProtocolError,
  RefusedError,
  VerbsealError,
} from "../errors.ts";
import type { MemoryRegion } from "../rdma/memory_region.ts";
import { Opcode } from "../rdma/work_request.ts";
import { requireAccess } from "../security/policy.ts";
import { defaultLimits, type UnfinishedLimits } from "../session/limits.ts";
import {
  MessageKind,
  type RemoteBuffer,
  type ServiceAccess,
  type ServiceDefinition,
  type SessionService,
} from "../session/service.ts";
import { noUsage, type ServiceUsage } from "../session/usage.ts";
import { ChunkBuffers } from "./chunk_buffers.ts";
import { ChunkSink } from "./chunk_sink.ts";
import { ChunkSource, type Moved } from "./chunk_source.ts";
import {
  decodeGrantedBuffer,
  decodeGrantedChunk,
  encodeBuffer,
  encodeChunk,
  encodeOffset,
  type FileRequest,
  fileRequest,
  type FileWindow,
  type GrantedBuffer,
  type GrantedChunk,
} from "./file_protocol.ts";
import { FileHash } from "./file_hash.ts";
import { Directory, RegularFile } from "./file_system.ts";
import { logger } from "../telemetry/log.ts";
import { parse } from "./schema.ts";
import { type Claim, type UnfinishedFile, UnfinishedFiles } from "./unfinished_files.ts";

const log = logger("files");

/**
 * The server's side of the file service: moves file data by its own READs and WRITEs through the
 * client's buffers, and so exposes no memory of its own.
 *
 * @param root directory that no path leaves; kept open as long as the program runs
 * @param limits of files that a client has not finished
 */
export function fileService(
  root: Directory,
  limits: UnfinishedLimits = defaultLimits,
): ServiceDefinition & Disposable {
  const unfinished = new UnfinishedFiles(limits);
  return {
    name: "files",
    kinds: [
      MessageKind.FILE_BUFFER_FREE,
      MessageKind.FILE_CHUNK,
      MessageKind.FILE_END,
      MessageKind.FILE_ABORT,
    ],
    start: (access) => new FileService(access, root, unfinished),
    [Symbol.dispose]: () => unfinished[Symbol.dispose](),
  };
}

/** One put or get. */
interface Transfer extends AsyncDisposable {
  /** Resolves when the file is complete and durable. */
  run(): Promise<Moved>;
  message(kind: MessageKind, body: Uint8Array): void;
  abort(error: Error): void;
}

class FileService implements SessionService {
  readonly usage = noUsage();
  #current: { readonly id: number; readonly transfer: Transfer } | undefined;
  /** Until the transfer uses none of its memory any more. */
  #running: Promise<unknown> | undefined;
  /** Where the policy gives the client a root of its own. */
  #ownRoot: Directory | undefined;

  constructor(
    private readonly access: ServiceAccess,
    private readonly root: Directory,
    private readonly unfinished: UnfinishedFiles,
  ) {
    access.signal.addEventListener(
      "abort",
      () => this.#current?.transfer.abort(access.signal.reason),
      { once: true },
    );
  }

  async request(body: unknown): Promise<unknown> {
    // A transfer registers memory as a grant does, and a small one comes to little more than that.
    await this.access.grantTurn?.();
    this.access.signal.throwIfAborted();
    const request = parse(fileRequest, body);
    this.usage.calls += 1;
    requireAccess(this.access.permissions, request.operation === "put" ? "write" : "read");
    if (this.#running) throw new RefusedError("busy", "the session has a transfer already");
    const transfer = request.operation === "put"
      ? new PutTransfer(this.access, this.#directory(), request, this.usage, this.unfinished)
      : new GetTransfer(this.access, this.#directory(), request, this.usage);
    this.#current = { id: request.transfer, transfer };
    const running = this.#finish(transfer);
    this.#running = running.catch(() => {});
    return running;
  }

  /** Messages of a transfer that is over may still be under way: they are passed by. */
  message(kind: MessageKind, id: number, body: Uint8Array): void {
    if (this.#current?.id === id) this.#current.transfer.message(kind, body);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#running;
    this.#ownRoot?.[Symbol.dispose]();
  }

  /** Who asks for a file need not learn what the policy calls its directory. */
  #directory(): Directory {
    const { root } = this.access.permissions;
    if (root === undefined) return this.root;
    try {
      return this.#ownRoot ??= new Directory(root, { confined: true, below: this.root });
    } catch (error) {
      log.error("the root of a policy's rule cannot be used", { root, error: errorText(error) });
      throw new RefusedError("root", "the server has no directory for this client");
    }
  }

  async #finish(transfer: Transfer): Promise<unknown> {
    try {
      const { size, sha256 } = await transfer.run();
      return { size: String(size), sha256 };
    } finally {
      this.#current = undefined;
      await transfer[Symbol.asyncDispose]();
      this.#running = undefined;
    }
  }
}

/** Buffers of the server's own, as many as the client's and as large: no remote access. */
class Staging implements Disposable {
  readonly memory: Memory;
  readonly region: MemoryRegion;

  constructor(access: ServiceAccess, { window }: FileRequest, use: "LOCAL_WRITE"[]) {
    this.memory = new Memory(window.buffers * window.bufferBytes);
    try {
      this.region = access.registerMemory(this.memory, use);
    } catch (error) {
      this.memory[Symbol.dispose]();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    this.region[Symbol.dispose]();
    this.memory[Symbol.dispose]();
  }
}

/** Where a buffer of the client's is; only the key comes with the grant. */
function remoteBuffer(window: FileWindow, { buffer, rkey }: GrantedBuffer): RemoteBuffer {
  return { address: Number(window.address) + buffer * window.bufferBytes, rkey };
}

/** READs the client's buffers and writes them to a file. */
class PutTransfer implements Transfer {
  readonly #end = Promise.withResolvers<string>();
  readonly #staging: Staging;
  readonly #plain: ChunkBuffers;
  #claim: Claim | undefined;
  #unfinished: UnfinishedFile | undefined;
  #sink: ChunkSink<GrantedChunk> | undefined;
  #complete = false;
  /** Nobody goes on with it: it is done, or not to be done. */
  #over = false;
  #displaced = false;

  constructor(
    private readonly access: ServiceAccess,
    private readonly root: Directory,
    private readonly request: FileRequest & { operation: "put" },
    private readonly usage: ServiceUsage,
    private readonly others: UnfinishedFiles,
  ) {
    this.#end.promise.catch(() => {}); // run() reports it
    const { window, transfer } = request;
    using building = new DisposableStack();
    this.#staging = building.use(new Staging(access, request, ["LOCAL_WRITE"]));
    const { memory } = this.#staging;
    this.#plain = building.use(new ChunkBuffers(access, transfer, memory, window));
    building.move();
  }

  async run(): Promise<Moved> {
    const { file, hash, session } = this.#unfinished = await this.#begin();
    hash.turns = this.access.turns;
    this.#sink = new ChunkSink(
      file.file,
      this.#plain.memory,
      this.#plain.bytes,
      (chunk) => this.#plain.open(chunk, this.#read(chunk)),
      (buffer) => this.#release(buffer),
      hash,
    );
    if (hash.length > 0) this.#goOn(hash.length, session);
    for (let buffer = 0; buffer < this.request.window.buffers; buffer++) this.#release(buffer);
    const sha256 = await this.#end.promise;
    const moved = await this.#sink.finish();
    this.#over = true;
    if (moved.size !== Number(this.request.size)) {
      throw new ProtocolError("file_size", `${moved.size} bytes came of ${this.request.size}`);
    }
    if (moved.sha256 !== sha256) {
      throw new IntegrityError("sha256", "what arrived has not the hash of what was sent");
    }
    await file.commit();
    return moved;
  }

  message(kind: MessageKind, body: Uint8Array): void {
    const { buffers } = this.request.window;
    if (kind === MessageKind.FILE_CHUNK && this.#sink && !this.#complete) {
      const chunk = decodeGrantedChunk(body, buffers, this.#plain.bytes);
      if (chunk.size !== Number(this.request.size)) {
        throw new ProtocolError("chunk", `chunk of a file of ${chunk.size} bytes`);
      }
      this.#sink.take(chunk).catch((error) => this.abort(error));
    } else if (kind === MessageKind.FILE_END && body.length === 32) {
      this.#complete = true;
      this.#end.resolve(encodeHex(body.slice()));
    } else if (kind === MessageKind.FILE_ABORT) {
      this.#over = true;
      this.abort(new VerbsealError("aborted", "the client gave up"));
    } else {
      throw new ProtocolError("message_kind", `message of kind ${kind} in a put`);
    }
  }

  abort(error: Error): void {
    this.#end.reject(error);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#sink?.settled();
    // They are of this session, and the file may wait for another one.
    if (this.#unfinished) this.#unfinished.hash.turns = undefined;
    const { session } = this.access;
    const kept = this.#isWorthKeeping && this.#unfinished
      ? { ...this.#unfinished, session }
      : undefined;
    try {
      this.#plain[Symbol.dispose]();
      this.#staging[Symbol.dispose]();
      if (!kept) this.#unfinished?.file[Symbol.dispose]();
    } finally {
      this.#claim?.release(kept);
    }
  }

  /** What carried it has ended, and not because the client wished it. */
  get #isWorthKeeping(): boolean {
    const { signal } = this.access;
    return this.#claim !== undefined && !this.#over &&
      (this.#displaced || (signal.aborted && signal.reason.code !== "session_ended"));
  }

  async #begin(): Promise<UnfinishedFile> {
    const { request: { path, token }, access: { identity = "", owner = identity, permissions } } =
      this;
    const size = Number(this.request.size);
    if (token !== undefined) {
      const name = { identity, owner, token, place: JSON.stringify([permissions.root, path]) };
      this.#claim = await this.others.claim(name, () => this.#giveUp());
      const { unfinished } = this.#claim;
      if (unfinished?.size === size) return unfinished;
      unfinished?.file[Symbol.dispose]();
    }
    return { file: this.root.createFile(path), hash: new FileHash(), size };
  }

  /** The client has come back before the end of its former session was noticed. */
  #giveUp(): void {
    this.#displaced = true;
    this.abort(
      new VerbsealError("displaced", "the client goes on with the file in another session"),
    );
  }

  /** @param from the session that has brought the beginning */
  #goOn(offset: number, from: string | undefined): void {
    const { operation, path } = this.request;
    this.access.onResumed?.({ operation, path, offset, from });
    this.#send(MessageKind.FILE_OFFSET, encodeOffset(offset));
  }

  async #read(chunk: GrantedChunk): Promise<void> {
    const { window } = this.request;
    await this.access.transfer(
      Opcode.READ,
      this.#staging.region,
      chunk.buffer * window.bufferBytes,
      this.#plain.sharedBytes(chunk),
      remoteBuffer(window, chunk),
    );
    this.usage.received += chunk.length;
  }

  #release(buffer: number): void {
    this.#send(MessageKind.FILE_BUFFER_FREE, encodeBuffer(buffer));
  }

  #send(kind: MessageKind, body: Uint8Array): void {
    this.access.send(kind, this.request.transfer, body);
  }
}

/** Reads a file and WRITEs it into the client's buffers. */
class GetTransfer implements Transfer {
  readonly #file: RegularFile;
  readonly #staging: Staging;
  readonly #plain: ChunkBuffers;
  readonly #source: ChunkSource;
  /** Of the grant that each buffer has, or had last. */
  readonly #rkeys: number[];
  #running: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly access: ServiceAccess,
    root: Directory,
    private readonly request: FileRequest & { operation: "get" },
    usage: ServiceUsage,
  ) {
    const { window, transfer } = request;
    this.#rkeys = [...request.rkeys];
    using building = new DisposableStack();
    this.#file = building.use(root.openFile(request.path));
    this.#staging = building.use(new Staging(access, request, []));
    const { memory, region } = this.#staging;
    const plain = this.#plain = building.use(new ChunkBuffers(access, transfer, memory, window));
    const hash = new FileHash();
    hash.turns = access.turns;
    this.#source = new ChunkSource(
      this.#file,
      plain.memory,
      plain.bytes,
      async (chunk) => {
        const { buffer } = chunk;
        plain.seal(chunk);
        const at = buffer * window.bufferBytes;
        const remote = remoteBuffer(window, { buffer, rkey: this.#rkeys[buffer]! });
        const range = { descriptor: this.#file.fd, position: chunk.offset };
        await (access.writeFile?.(range, chunk.length, remote) ??
          access.transfer(Opcode.WRITE, region, at, plain.sharedBytes(chunk), remote));
        usage.sent += chunk.length;
        access.send(MessageKind.FILE_CHUNK, transfer, encodeChunk(chunk));
      },
      hash,
    );
    building.move();
  }

  run(): Promise<Moved> {
    for (let buffer = 0; buffer < this.request.window.buffers; buffer++) {
      this.#source.bufferFree(buffer);
    }
    const running = this.#move();
    this.#running = running.catch(() => {});
    return running;
  }

  async #move(): Promise<Moved> {
    const { operation, path } = this.request;
    const offset = Number(this.request.offset ?? 0);
    await this.#source.skip(offset);
    if (offset > 0) this.access.onResumed?.({ operation, path, offset });
    return await this.#source.run();
  }

  message(kind: MessageKind, body: Uint8Array): void {
    if (kind === MessageKind.FILE_BUFFER_FREE) {
      const { buffer, rkey } = decodeGrantedBuffer(body, this.request.window.buffers);
      this.#source.bufferFree(buffer);
      this.#rkeys[buffer] = rkey;
    } else if (kind === MessageKind.FILE_ABORT) {
      this.abort(new VerbsealError("aborted", "the client gave up"));
    } else {
      throw new ProtocolError("message_kind", `message of kind ${kind} in a get`);
    }
  }

  abort(error: Error): void {
    this.#source.abort(error);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#running;
    this.#plain[Symbol.dispose]();
    this.#staging[Symbol.dispose]();
    this.#file[Symbol.dispose]();
  }
}
