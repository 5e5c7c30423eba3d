import type { Memory } from "../../ffi/memory.ts";
import { ProtocolError } from "../errors.ts";
import type { Chunk } from "./file_protocol.ts";
import type { Moved } from "./chunk_source.ts";
import { FileHash } from "./file_hash.ts";
import type { RegularFile } from "./file_system.ts";

/** Writes chunks to a file in their order, and gives their buffers back. */
export class ChunkSink<T extends Chunk = Chunk> {
  readonly #busy = new Set<number>();
  /** What refers to the memory. */
  readonly #working = new Set<Promise<unknown>>();
  /** Settles when the last chunk is written that is being stored. */
  #writing: Promise<unknown> = Promise.resolve();
  /** Resolves when the last chunk taken is being stored. */
  #begun: Promise<unknown> = Promise.resolve();
  /** Resolves when it and all before it are written and hashed. */
  #tail: Promise<void> = Promise.resolve();
  #received: number;
  #written: number;
  #finished = false;

  /**
   * @param memory all buffers, one after the other
   * @param obtain brings a chunk into its buffer, if it is not there yet
   * @param release tells the peer that a buffer is free; bytes up to there are written and hashed
   * @param hash of what the file has already
   */
  constructor(
    private readonly file: RegularFile,
    private readonly memory: Memory,
    private readonly bufferBytes: number,
    private readonly obtain: (chunk: T) => Promise<void>,
    private readonly release: (buffer: number, written: number, size: number) => void,
    private readonly hash = new FileHash(),
  ) {
    this.#received = this.#written = hash.length;
  }

  /** Bytes of the file that are written and hashed. */
  get written(): number {
    return this.#written;
  }

  /**
   * Takes the next chunk.
   *
   * @returns a promise that rejects when it or one before it could not be written
   * @throws ProtocolError when it is not the next one, its buffer is not free, or {@linkcode finish}
   *   was called
   */
  take(chunk: T): Promise<void> {
    const { buffer, offset, length } = chunk;
    if (this.#finished || offset !== this.#received || this.#busy.has(buffer)) {
      throw new ProtocolError("chunk", `chunk at ${offset} in buffer ${buffer} out of turn`);
    }
    this.#received += length;
    this.#busy.add(buffer);
    const obtained = this.obtain(chunk);
    // Each begins in its turn, while those before it are being stored.
    const begun = this.#begun.then(() => obtained).then(() => ({ storing: this.#store(chunk) }));
    const stored = begun.then(({ storing }) => storing);
    this.#begun = begun;
    this.#tail = Promise.all([this.#tail, stored]).then(() => this.#release(chunk));
    for (const work of [obtained, stored]) this.#until(work);
    this.#tail.catch(() => {}); // finish() reports it
    return this.#tail;
  }

  /** Resolves when all chunks taken are written and hashed; no others are taken. */
  async finish(): Promise<Moved> {
    this.#finished = true;
    await this.#tail;
    return { size: this.#received, sha256: this.hash.digest() };
  }

  /** Resolves when nothing refers to the memory any more; the hash is of what is written then. */
  async settled(): Promise<void> {
    await Promise.allSettled([this.#tail, ...this.#working]);
    this.hash.rewind(this.#written);
  }

  /** Writes and hashes a chunk; nothing refers to its memory when this has settled. */
  async #store({ buffer, length, offset }: Chunk): Promise<void> {
    const at = buffer * this.bufferBytes;
    // The kernel has one thread at a time write to a file, and others spin meanwhile.
    const writing = this.#writing.then(() => this.file.write(this.memory, at, length, offset));
    this.#writing = writing.catch(() => {});
    const storing = [writing, this.hash.update(this.memory, at, length)];
    await Promise.allSettled(storing);
    await Promise.all(storing);
  }

  #until(work: Promise<unknown>): void {
    this.#working.add(work);
    work.catch(() => {}).finally(() => this.#working.delete(work));
  }

  #release({ buffer, length, offset, size }: Chunk): void {
    this.#written += length;
    this.#busy.delete(buffer);
    this.release(buffer, offset + length, size);
  }
}
