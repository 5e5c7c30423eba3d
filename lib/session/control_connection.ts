import { type Frame, FrameDecoder } from "../control/frame.ts";
import { encode, type Message } from "../control/messages.ts";
import { errorText, ProtocolError, TlsError, VerbsealError } from "../errors.ts";
import type { TlsConnection } from "../tls/connection.ts";

/** Bytes read at once. */
const CHUNK_BYTES = 16384;

/** Frames that wait to be taken, and their bytes, beyond either of which the peer is not read from. */
const MAX_WAITING = 64;
const MAX_WAITING_BYTES = 16384;

/** Frames on a TLS connection. It reads ahead a little, so that the end of the connection is known at once. */
export class ControlConnection {
  /** Resolves when nothing more comes: undefined when the peer closed properly between frames. */
  readonly ended: Promise<VerbsealError | undefined>;
  readonly #tls: TlsConnection;
  readonly #frames: Frame[] = [];
  #waitingBytes = 0;
  #arrival = Promise.withResolvers<void>();
  #room = Promise.withResolvers<void>();
  #open = true;
  #closing = false;

  constructor(tls: TlsConnection) {
    this.#tls = tls;
    this.ended = this.#read().finally(() => {
      this.#open = false;
      this.#arrival.resolve();
    });
  }

  /** The next frame, or null after the last one. */
  async next(): Promise<Frame | null> {
    for (;;) {
      const frame = this.#frames.shift();
      if (frame) {
        this.#waitingBytes -= frame.bytes.length;
        if (this.#hasRoom) this.#room.resolve();
        return frame;
      }
      if (!this.#open) return null;
      await this.#arrival.promise;
    }
  }

  /** Frames that have come and were not taken yet. */
  get waiting(): number {
    return this.#frames.length;
  }

  get #hasRoom(): boolean {
    return this.#frames.length < MAX_WAITING && this.#waitingBytes < MAX_WAITING_BYTES;
  }

  /** Whether such a frame has come and was not taken yet. */
  holds(name: Frame["name"]): boolean {
    return this.#frames.some((frame) => frame.name === name);
  }

  /** @throws TlsError when the connection was lost */
  sendFrame(frame: Frame): Promise<void> {
    return this.#tls.write(frame.bytes);
  }

  /** @throws TlsError when the connection was lost */
  send(message: Message): Promise<void> {
    return this.sendFrame(encode(message));
  }

  /**
   * Tells the peer why the connection ends. Nobody waits for that, as it may have gone already or
   * read nothing: {@linkcode close} gives it a moment.
   */
  sendLast(message: Message): void {
    this.send(message).catch(() => {});
  }

  /** Closes so that what was sent arrives. */
  async close(): Promise<void> {
    this.#stopReading();
    await this.#tls.close();
    await this.ended;
  }

  /** Closes at once. */
  abort(): void {
    this.#stopReading();
    this.#tls.abort();
  }

  /** Nobody takes what still comes: it is passed by until the connection is closed. */
  #stopReading(): void {
    this.#closing = true;
    this.#room.resolve();
  }

  #take(frames: Frame[]): void {
    for (const frame of frames) {
      this.#frames.push(frame);
      this.#waitingBytes += frame.bytes.length;
    }
  }

  async #read(): Promise<VerbsealError | undefined> {
    const decoder = new FrameDecoder();
    const chunk = new Uint8Array(CHUNK_BYTES);
    try {
      for (;;) {
        const count = await this.#tls.read(chunk);
        if (count === null) break;
        const received = chunk.subarray(0, count);
        if (!this.#closing) this.#take(decoder.push(received));
        received.fill(0); // the peer's SECRET may be in it
        if (this.#closing) continue;
        this.#arrival.resolve();
        this.#arrival = Promise.withResolvers<void>();
        if (!this.#hasRoom) {
          this.#room = Promise.withResolvers<void>();
          await this.#room.promise;
        }
      }
    } catch (error) {
      if (error instanceof VerbsealError) return error;
      return new TlsError("connection_lost", `the TLS connection failed: ${errorText(error)}`);
    }
    return decoder.atBoundary
      ? undefined
      : new ProtocolError("frame_cut_off", "the connection ended within a frame");
  }
}
