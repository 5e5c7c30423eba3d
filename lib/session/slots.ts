/**
 * Work that a peer or a device is asked for, so much of it at once as there are slots; the rest waits
 * in turn. Nothing comes between taking a slot and waiting for the work in it, so that
 * {@linkcode abort} finds everybody who waits.
 */
export class Slots {
  readonly #free: number[];
  readonly #pending = new Map<number, PromiseWithResolvers<void>>();
  readonly #waiting: PromiseWithResolvers<void>[] = [];
  #aborted: Error | undefined;

  constructor(count: number) {
    this.#free = Array.from({ length: count }, (_, slot) => slot);
  }

  /**
   * Begins work in a slot of its own.
   *
   * @returns resolves when the work is complete; rejects with what `begin` throws, or as aborted
   */
  async run(begin: (slot: number) => void): Promise<void> {
    let slot = this.#take();
    while (slot === undefined) {
      await this.#turn();
      slot = this.#take();
    }
    const done = Promise.withResolvers<void>();
    this.#pending.set(slot, done);
    try {
      begin(slot);
    } catch (error) {
      this.complete(slot);
      throw error;
    }
    await done.promise;
  }

  /** The work in a slot is done, and the slot is the next one's. */
  complete(slot: number): void {
    this.#pending.get(slot)?.resolve();
    this.#pending.delete(slot);
    this.#free.push(slot);
    this.#waiting.shift()?.resolve();
  }

  /** All that is under way and all that waits is rejected, and so is what comes later. */
  abort(reason: Error): void {
    this.#aborted = reason;
    for (const { reject } of [...this.#pending.values(), ...this.#waiting]) reject(reason);
    this.#pending.clear();
    this.#waiting.length = 0;
  }

  /** Undefined when all are taken. */
  #take(): number | undefined {
    if (this.#aborted) throw this.#aborted;
    return this.#free.pop();
  }

  #turn(): Promise<void> {
    const turn = Promise.withResolvers<void>();
    this.#waiting.push(turn);
    return turn.promise;
  }
}
