import { VerbsealError } from "../errors.ts";
import type { DataStream } from "../tls/connection.ts";
import type { SessionTurns } from "./client_turns.ts";
import type { FileRange } from "./service.ts";
import { FrameType, HEADER_BYTES, SEGMENT_BYTES, writeHeader } from "./stream_frames.ts";

/** Bytes in which messages gather while a write is under way. */
const GATHER_BYTES = 2 ** 16;

/** Gathering buffers that are kept for the next time. */
const SPARE_BUFFERS = 2;

/** Bytes of a transfer that go out in segments, or a frame without any. */
export interface Outgoing {
  readonly type: FrameType;
  readonly id: number;
  readonly key: number;
  readonly offset: number;
  /** 0 for a frame that only asks or confirms. */
  readonly length: number;
  /** Looked at for each segment, as memory may be given back meanwhile. */
  readonly source: ((offset: number, length: number) => Uint8Array) | FileRange | undefined;
  /** Called when all of it is written, and its source is not looked at any more. */
  readonly sent?: () => void;
}

/**
 * Writes frames to the session's data connection: messages in as few writes as possible, and
 * between them segments of transfers, each transfer in its turn. What registered memory holds is
 * copied just before it is written: it may be given back at any time, and what the library and the
 * kernel read must stay.
 */
export class StreamWriter {
  readonly #fail: (error: unknown) => void;
  readonly #segment = new Uint8Array(HEADER_BYTES + SEGMENT_BYTES);
  readonly #segmentView = new DataView(this.#segment.buffer);
  readonly #ready: Uint8Array[] = [];
  readonly #spare: Uint8Array<ArrayBuffer>[] = [];
  readonly #transfers: { readonly outgoing: Outgoing; done: number }[] = [];
  #gathering = new Uint8Array(GATHER_BYTES);
  #gatheringView = new DataView(this.#gathering.buffer);
  #gathered = 0;
  #queuedBytes = 0;
  #drained: PromiseWithResolvers<void> | undefined;
  #stream: DataStream;
  #next: PromiseWithResolvers<void> & { readonly stream: DataStream } | undefined;
  #running: Promise<void> = Promise.resolve();
  #active = false;
  #ended = false;

  /**
   * @param turns of the session: whatever is written waits for its turn
   * @param fail is told, once, when the connection no longer takes what is written
   */
  constructor(
    stream: DataStream,
    private readonly turns: SessionTurns,
    fail: (error: unknown) => void,
  ) {
    this.#stream = stream;
    this.#fail = fail;
  }

  /** Bytes of messages that wait. */
  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  /** Resolves when no messages wait any more, or nothing more is written. */
  drained(): Promise<void> {
    if (this.#queuedBytes === 0 || this.#ended) return Promise.resolve();
    return (this.#drained ??= Promise.withResolvers<void>()).promise;
  }

  /** Sends a message, which may be changed when this returns. */
  message(kind: number, id: number, body: Uint8Array): void {
    const bytes = HEADER_BYTES + body.length;
    this.#queuedBytes += bytes;
    const header = { type: FrameType.MESSAGE, kind, id, key: 0, length: body.length, offset: 0 };
    if (bytes > GATHER_BYTES - this.#gathered) this.#seal();
    if (bytes > GATHER_BYTES) {
      const own = new Uint8Array(bytes);
      writeHeader(new DataView(own.buffer), 0, header);
      own.set(body, HEADER_BYTES);
      this.#ready.push(own);
    } else {
      writeHeader(this.#gatheringView, this.#gathered, header);
      this.#gathering.set(body, this.#gathered + HEADER_BYTES);
      this.#gathered += bytes;
    }
    this.#start();
  }

  /** Sends a transfer's bytes, or a frame without any. */
  transfer(outgoing: Outgoing): void {
    this.#transfers.push({ outgoing, done: 0 });
    this.#start();
  }

  /** Goes on over another connection; resolves when SWITCH is the last that the present one takes. */
  async switchTo(stream: DataStream): Promise<void> {
    const next = { ...Promise.withResolvers<void>(), stream };
    this.#next = next;
    this.#start();
    await next.promise;
  }

  /** Writes no more; resolves when no write is under way. */
  async end(): Promise<void> {
    this.#ended = true;
    await this.#running;
    this.#drained?.resolve();
    this.#next?.reject(new VerbsealError("session_ended", "the session has ended"));
  }

  #start(): void {
    if (this.#ended || this.#active) return;
    this.#active = true;
    this.#running = this.#run().catch(this.#fail);
  }

  async #run(): Promise<void> {
    // What is sent in one go gathers first.
    await Promise.resolve();
    for (;;) {
      if (this.turns.mustWait) await this.turns.turn();
      if (this.#ended) return;
      if (this.#next) await this.#switch(this.#next);
      if (this.#ready.length === 0) this.#seal();
      const messages = this.#ready.shift();
      if (messages) await this.#writeMessages(messages);
      const transfer = this.#transfers.shift();
      if (transfer && !this.#ended) await this.#writeSegment(transfer);
      if (messages || transfer) continue;
      this.#active = false;
      return;
    }
  }

  async #writeMessages(messages: Uint8Array): Promise<void> {
    await this.#stream.write(messages);
    this.#queuedBytes -= messages.length;
    if (messages.buffer.byteLength === GATHER_BYTES && this.#spare.length < SPARE_BUFFERS) {
      this.#spare.push(new Uint8Array(messages.buffer as ArrayBuffer));
    }
    if (this.#queuedBytes > 0) return;
    this.#drained?.resolve();
    this.#drained = undefined;
  }

  async #writeSegment(transfer: { readonly outgoing: Outgoing; done: number }): Promise<void> {
    const { outgoing, done } = transfer;
    const { type, id, key, source } = outgoing;
    const length = source ? Math.min(SEGMENT_BYTES, outgoing.length - done) : 0;
    const last = source !== undefined && done + length === outgoing.length;
    writeHeader(this.#segmentView, 0, {
      type,
      kind: last ? 1 : 0,
      id,
      key,
      length: source ? length : outgoing.length,
      offset: outgoing.offset + done,
    });
    if (typeof source === "function") {
      this.#segment.set(source(done, length), HEADER_BYTES);
      await this.#stream.write(this.#segment.subarray(0, HEADER_BYTES + length));
    } else {
      await this.#stream.write(this.#segment.subarray(0, HEADER_BYTES));
      if (source) await this.#stream.sendFile(source.descriptor, source.position + done, length);
    }
    transfer.done += length;
    if (source && !last) this.#transfers.push(transfer);
    else outgoing.sent?.();
  }

  async #switch(next: PromiseWithResolvers<void> & { readonly stream: DataStream }): Promise<void> {
    const header = { type: FrameType.SWITCH, kind: 0, id: 0, key: 0, length: 0, offset: 0 };
    writeHeader(this.#segmentView, 0, header);
    await this.#stream.write(this.#segment.subarray(0, HEADER_BYTES));
    this.#stream = next.stream;
    this.#next = undefined;
    next.resolve();
  }

  /** What has gathered waits to be written, and a fresh buffer gathers. */
  #seal(): void {
    if (this.#gathered === 0) return;
    this.#ready.push(this.#gathering.subarray(0, this.#gathered));
    this.#gathering = this.#spare.pop() ?? new Uint8Array(GATHER_BYTES);
    this.#gatheringView = new DataView(this.#gathering.buffer);
    this.#gathered = 0;
  }
}
