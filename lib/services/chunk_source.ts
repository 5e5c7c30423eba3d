import type { Memory } from "../../ffi/memory.ts";
import { ProtocolError, RefusedError, VerbsealError } from "../errors.ts";
import { FileHash } from "./file_hash.ts";
import type { Chunk } from "./file_protocol.ts";
import type { RegularFile } from "./file_system.ts";

/** What was moved. */
export interface Moved {
  readonly size: number;
  /** 64 hexadecimal digits. */
  readonly sha256: string;
}

/** Reads a file into buffers as they become free, and hands each on. */
export class ChunkSource {
  readonly #free: number[] = [];
  /** By buffer: resolves when what it had last is hashed. */
  readonly #hashing: Promise<void>[] = [];
  #turn: PromiseWithResolvers<void> | undefined;
  #aborted: Error | undefined;

  /**
   * @param memory all buffers, one after the other
   * @param deliver hands a chunk on, in order; may work on several at once
   * @param hash of what the peer has already: chunks begin behind it
   */
  constructor(
    private readonly file: RegularFile,
    private readonly memory: Memory,
    private readonly bufferBytes: number,
    private readonly deliver: (chunk: Chunk) => Promise<void>,
    private readonly hash = new FileHash(),
  ) {}

  /**
   * The buffer may be filled.
   *
   * @throws ProtocolError when it is free already
   */
  bufferFree(buffer: number): void {
    if (this.#free.includes(buffer)) {
      throw new ProtocolError("buffer", `buffer ${buffer} was given back twice`);
    }
    this.#free.push(buffer);
    this.#turn?.resolve();
  }

  /** Ends {@linkcode run} with this error. */
  abort(error: Error): void {
    this.#aborted ??= error;
    this.#turn?.resolve();
  }

  /**
   * Hashes the file up to where the peer has it already, while all buffers are free.
   *
   * @throws RefusedError `file_changed` when the file is shorter
   */
  async skip(length: number): Promise<void> {
    const { file, memory, hash, bufferBytes } = this;
    while (hash.length < length) {
      if (this.#aborted) throw this.#aborted;
      const part = Math.min(bufferBytes, length - hash.length);
      if (await file.read(memory, 0, part, hash.length) < part) {
        throw new RefusedError("file_changed", `${file.path} is shorter than what was read of it`);
      }
      await hash.update(memory, 0, part);
    }
  }

  /**
   * Resolves when all chunks are delivered.
   *
   * @throws VerbsealError when the file became shorter meanwhile
   */
  async run(): Promise<Moved> {
    const { file, memory, bufferBytes, hash } = this;
    const delivering = new Set<Promise<void>>();
    let filling = this.#fill(hash.length);
    try {
      for (let chunk = await filling; chunk; chunk = await filling) {
        const { buffer, length, offset } = chunk;
        const delivery = this.deliver(chunk)
          .catch((error) => this.abort(error))
          .finally(() => delivering.delete(delivery));
        delivering.add(delivery);
        this.#hashing[buffer] = hash.update(memory, buffer * bufferBytes, length);
        filling = this.#fill(offset + length);
      }
    } catch (error) {
      this.abort(error as Error);
    } finally {
      // Nothing refers to the memory any more when this ends.
      await Promise.allSettled([filling, ...this.#hashing, ...delivering]);
    }
    if (this.#aborted) throw this.#aborted;
    return { size: file.size, sha256: hash.digest() };
  }

  /** Reads the chunk at this offset; undefined at the file's end. */
  #fill(offset: number): Promise<Chunk | undefined> {
    const filling = this.#read(offset);
    filling.catch(() => {}); // run() awaits it when it comes to it
    return filling;
  }

  async #read(offset: number): Promise<Chunk | undefined> {
    const { file: { size, path }, memory, bufferBytes } = this;
    if (offset >= size) return undefined;
    const buffer = await this.#takeFree();
    await this.#hashing[buffer];
    const length = Math.min(bufferBytes, size - offset);
    if (await this.file.read(memory, buffer * bufferBytes, length, offset) < length) {
      throw new VerbsealError("file_changed", `${path} became shorter while it was read`);
    }
    return { buffer, length, offset, size };
  }

  async #takeFree(): Promise<number> {
    for (;;) {
      if (this.#aborted) throw this.#aborted;
      const buffer = this.#free.shift();
      if (buffer !== undefined) return buffer;
      this.#turn = Promise.withResolvers<void>();
      await this.#turn.promise;
    }
  }
}
