import { ProtocolError } from "../errors.ts";
import type { MemoryRegion } from "../rdma/memory_region.ts";
import { FrameType } from "./stream_frames.ts";
import type { StreamMemory } from "./stream_memory.ts";
import type { StreamWriter } from "./stream_writer.ts";
import type { FileRange, RemoteBuffer } from "./service.ts";
import { Slots } from "./slots.ts";
import { TRANSFERS } from "./transfers.ts";

/** A transfer of our own that the peer has not finished. */
interface Pending {
  /** READ: where the bytes go, and how many have come. */
  readonly target?: { readonly region: MemoryRegion; readonly offset: number };
  readonly length: number;
  received: number;
  /** WRITE: all bytes have left. */
  sent: boolean;
  /** WRITE: the peer says that it has them. */
  confirmed: boolean;
}

/** READs and WRITEs of a session's services: at most {@linkcode TRANSFERS} at once, the others wait in turn. */
export class StreamTransfers {
  readonly #slots = new Slots(TRANSFERS);
  readonly #pending = new Map<number, Pending>();

  constructor(private readonly memory: StreamMemory, private readonly writer: StreamWriter) {}

  /** Resolves when the peer has all bytes. */
  write(
    source: { readonly region: MemoryRegion; readonly offset: number } | FileRange,
    length: number,
    remote: RemoteBuffer,
  ): Promise<void> {
    return this.#run({ length }, (id, pending) =>
      this.writer.transfer({
        type: FrameType.WRITE,
        id,
        key: remote.rkey,
        offset: remote.address,
        length,
        source: "region" in source
          ? (offset, count) => this.memory.own(source.region, source.offset + offset, count)
          : source,
        sent: () => {
          pending.sent = true;
          this.#completeWrite(id, pending);
        },
      }));
  }

  /** Resolves when all bytes are here. */
  read(region: MemoryRegion, offset: number, length: number, remote: RemoteBuffer): Promise<void> {
    return this.#run({ length, target: { region, offset } }, (id) =>
      this.writer.transfer({
        type: FrameType.READ,
        id,
        key: remote.rkey,
        offset: remote.address,
        length,
        source: undefined,
      }));
  }

  /**
   * The peer has taken a WRITE's bytes, or says so: what is to be sent must not be given back before
   * it has left, or the rest would be read from whoever has the memory, or the descriptor, by then.
   *
   * @throws ProtocolError when there is no such WRITE
   */
  written(id: number): void {
    const pending = this.#pending.get(id);
    if (!pending || pending.target || pending.confirmed) {
      throw new ProtocolError("transfer", `WRITTEN ${id} to no WRITE`);
    }
    pending.confirmed = true;
    this.#completeWrite(id, pending);
  }

  /**
   * Checks a segment of a READ before its bytes come.
   *
   * @throws ProtocolError when it is not the next one
   */
  segment(id: number, offset: number, length: number, last: boolean): void {
    const pending = this.#reading(id);
    const end = offset + length;
    if (offset === pending.received && end <= pending.length && last === (end === pending.length)) {
      return;
    }
    const what = `bytes ${offset} to ${end} of a READ of ${pending.length} out of turn`;
    throw new ProtocolError("transfer", what);
  }

  /** Some bytes of the segment. */
  take(id: number, bytes: Uint8Array): void {
    const pending = this.#reading(id);
    const { region, offset } = pending.target!;
    this.memory.own(region, offset + pending.received, bytes.length).set(bytes);
    pending.received += bytes.length;
  }

  /** All bytes of the segment are there. */
  taken(id: number): void {
    const pending = this.#reading(id);
    if (pending.received === pending.length) this.#complete(id);
  }

  /** The session ends: all transfers under way and waiting are rejected. */
  abort(reason: Error): void {
    this.#pending.clear();
    this.#slots.abort(reason);
  }

  #run(
    transfer: Pick<Pending, "length" | "target">,
    begin: (id: number, pending: Pending) => void,
  ): Promise<void> {
    return this.#slots.run((id) => {
      const pending = { ...transfer, received: 0, sent: false, confirmed: false };
      this.#pending.set(id, pending);
      begin(id, pending);
    });
  }

  #reading(id: number): Pending {
    const pending = this.#pending.get(id);
    if (!pending?.target) throw new ProtocolError("transfer", `DATA ${id} to no READ`);
    return pending;
  }

  #completeWrite(id: number, pending: Pending): void {
    if (pending.sent && pending.confirmed) this.#complete(id);
  }

  #complete(id: number): void {
    this.#pending.delete(id);
    this.#slots.complete(id);
  }
}
