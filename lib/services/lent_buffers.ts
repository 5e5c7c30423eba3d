import { Memory } from "../../ffi/memory.ts";
import { ProtocolError } from "../errors.ts";
import type { GrantDirection, LentBuffer, ServiceAccess } from "../session/service.ts";
import { BUFFER_BYTES, BUFFERS, type FileWindow } from "./file_protocol.ts";

/**
 * The client's buffers for one transfer. Each is either ours, or the server's to use for one chunk:
 * open to it, for one direction, between {@linkcode give} and {@linkcode takeBack}.
 */
export class LentBuffers implements AsyncDisposable {
  /** All buffers, one after the other. */
  readonly memory = new Memory(BUFFERS * BUFFER_BYTES);
  readonly #lent: DisposableStack;
  readonly #buffers: LentBuffer[] = [];
  readonly #direction: GrantDirection;
  /** Those that are the server's. */
  readonly #given: Set<number>;
  readonly #pending = new Set<Promise<unknown>>();
  #lastGiven: Promise<unknown> = Promise.resolve();

  /** @param direction what the server does with them: before it READs any it has to ask for each */
  constructor(access: ServiceAccess, direction: GrantDirection) {
    this.#direction = direction;
    using building = new DisposableStack();
    building.use(this.memory);
    for (let buffer = 0; buffer < BUFFERS; buffer++) {
      const lent = access.lend(this.memory, buffer * BUFFER_BYTES, BUFFER_BYTES);
      this.#buffers.push(building.use(lent));
    }
    this.#lent = building.move();
    this.#given = new Set(direction === "read" ? this.#buffers.keys() : []);
  }

  /** What a request tells of them. */
  get window(): FileWindow {
    return {
      address: String(this.#buffers[0]!.address),
      buffers: BUFFERS,
      bufferBytes: BUFFER_BYTES,
    };
  }

  /**
   * Opens the first bytes of a buffer to the server. What the server is to write begins as zeros:
   * bytes that it has not written are never taken for its own. Buffers become the server's in the
   * order in which they are given.
   *
   * @returns the rkey
   */
  give(buffer: number, length = BUFFER_BYTES): Promise<number> {
    const at = buffer * BUFFER_BYTES;
    if (this.#direction === "write") this.memory.bytes.fill(0, at, at + length);
    const granting = this.#until(this.#buffers[buffer]!.grant(this.#direction, length));
    const given = this.#inTurn(buffer, granting, this.#lastGiven);
    this.#lastGiven = given.catch(() => {});
    return given;
  }

  /**
   * The server is through with a buffer; it is ours, and out of the server's reach, when this resolves.
   *
   * @throws ProtocolError at once when the server does not have it
   */
  takeBack(buffer: number): Promise<void> {
    if (!this.#given.delete(buffer)) {
      throw new ProtocolError("buffer", `buffer ${buffer} was given back twice`);
    }
    return this.#until(this.#buffers[buffer]!.withdraw());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.#pending);
    this.#lent.dispose();
  }

  async #inTurn(
    buffer: number,
    granting: Promise<number>,
    before: Promise<unknown>,
  ): Promise<number> {
    const rkey = await granting;
    await before;
    this.#given.add(buffer);
    return rkey;
  }

  #until<T>(work: Promise<T>): Promise<T> {
    this.#pending.add(work);
    work.catch(() => {}).finally(() => this.#pending.delete(work));
    return work;
  }
}
