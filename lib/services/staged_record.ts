import { Memory } from "../../ffi/memory.ts";
import { RECORD_OVERHEAD, type RecordSeal } from "../security/seal.ts";

/** Bytes of one operation on lent memory, where that is sealed; who moves more has several. */
export const STAGED_BYTES = 2 ** 18;

/** The same for a region of so many bytes: a session registers no more than that. */
export function mostStagedBytes(region: number): number {
  return Math.max(1, Math.min(STAGED_BYTES, region - RECORD_OVERHEAD));
}

/** A range of private memory, and memory of its own for the record that crosses the network in its place. */
export class StagedRecord implements Disposable {
  /** Exactly the record; zeros at first. */
  readonly memory: Memory;

  /**
   * @param channel is the record's
   * @param at of the range in `plain`
   * @param offset of the range in the lent region
   */
  constructor(
    private readonly channel: RecordSeal,
    private readonly plain: Memory,
    private readonly at: number,
    private readonly length: number,
    private readonly offset: number,
  ) {
    this.memory = new Memory(length + RECORD_OVERHEAD);
  }

  /** Makes the record; before the peer may read it. */
  seal(): void {
    this.channel.seal(this.plain, this.at, this.length, this.memory, 0, this.offset);
  }

  /**
   * Takes the range out of the record; once the peer cannot write to it any more.
   *
   * @throws IntegrityError when it is not what the peer sealed
   */
  open(): void {
    this.channel.open(this.memory, 0, this.length, this.plain, this.at, this.offset);
  }

  [Symbol.dispose](): void {
    this.memory[Symbol.dispose]();
    this.channel[Symbol.dispose]();
  }
}
