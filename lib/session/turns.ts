/** Work that is done one after the other for each of those whose it is. */
export class Turns {
  /** Resolves when the last work of each is done. */
  readonly #last = new Map<string, Promise<void>>();

  /** Does work when all is done, or has failed, that was asked for before and is `whose` too. */
  async take<T>(whose: string, work: () => Promise<T>): Promise<T> {
    const before = this.#last.get(whose);
    const { promise: done, resolve } = Promise.withResolvers<void>();
    this.#last.set(whose, done);
    try {
      await before;
      return await work();
    } finally {
      if (this.#last.get(whose) === done) this.#last.delete(whose);
      resolve();
    }
  }

  /** How many have work under way. */
  get size(): number {
    return this.#last.size;
  }
}
