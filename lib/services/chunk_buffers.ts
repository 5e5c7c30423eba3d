import { Memory } from "../../ffi/memory.ts";
import { RECORD_OVERHEAD, type RecordSeal } from "../security/seal.ts";
import type { ServiceAccess } from "../session/service.ts";
import type { Chunk, FileWindow } from "./file_protocol.ts";

/** Chunks begin at multiples of it in a file, so that the kernel moves whole pages. */
const PAGE_BYTES = 4096;

/**
 * What a transfer's chunks are read from files to, or written to files from. In a sealed session
 * that is private memory, and the buffers that the two sides share hold records; else it is those
 * buffers themselves.
 */
export class ChunkBuffers implements Disposable {
  /** Of a chunk at most, and from one chunk's memory to the next one's. */
  readonly bytes: number;
  /** All chunks' memory, one after the other. */
  readonly memory: Memory;
  readonly #seal: RecordSeal | undefined;
  readonly #resources: DisposableStack;
  /** Resolves when the last chunk is opened. */
  #opening: Promise<void> = Promise.resolve();

  /**
   * @param transfer larger than those of all transfers before
   * @param shared the buffers that chunks cross the network from, or to
   * @throws ProtocolError `transfer` when its number is not
   */
  constructor(
    { seal }: Pick<ServiceAccess, "seal">,
    transfer: number,
    private readonly shared: Memory,
    private readonly window: Pick<FileWindow, "buffers" | "bufferBytes">,
  ) {
    const { buffers, bufferBytes } = window;
    using building = new DisposableStack();
    this.#seal = seal && building.use(seal.channel("files", transfer));
    const room = bufferBytes - RECORD_OVERHEAD;
    this.bytes = seal ? room - room % PAGE_BYTES : bufferBytes;
    this.memory = seal ? building.use(new Memory(buffers * this.bytes)) : shared;
    this.#resources = building.move();
  }

  /** Bytes of a chunk's buffer that cross the network. */
  sharedBytes({ length }: Chunk): number {
    return this.#seal ? length + RECORD_OVERHEAD : length;
  }

  /** Makes a chunk ready to cross; those of a transfer in their order. */
  seal({ buffer, length, offset }: Chunk): void {
    const { memory, shared, window: { bufferBytes } } = this;
    const at = buffer * this.bytes;
    this.#seal?.seal(memory, at, length, shared, buffer * bufferBytes, offset);
  }

  /**
   * Takes what has crossed; chunks become ready in the order of the calls.
   *
   * @param arrived resolves when the chunk is in its buffer, and out of the peer's reach
   * @returns rejects with an IntegrityError when it is not what the peer sealed; never while it is
   * still under way, as its memory may be freed then
   */
  open(chunk: Chunk, arrived: Promise<void>): Promise<void> {
    if (!this.#seal) return arrived;
    const opened = this.#openNext(chunk, this.#opening, arrived);
    this.#opening = opened;
    opened.catch(() => {}); // who asked learns of it
    return opened;
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }

  async #openNext(chunk: Chunk, before: Promise<void>, arrived: Promise<void>): Promise<void> {
    await Promise.allSettled([before, arrived]);
    await Promise.all([before, arrived]);
    this.#open(chunk);
  }

  #open({ buffer, length, offset }: Chunk): void {
    const { memory, shared, window: { bufferBytes } } = this;
    this.#seal!.open(shared, buffer * bufferBytes, length, memory, buffer * this.bytes, offset);
  }
}
