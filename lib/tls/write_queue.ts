/** Writes in their order: what gathers while one is under way goes out together in the next. */
export class WriteQueue {
  #unwritten: Uint8Array[] = [];
  #writing: Promise<void> | undefined;

  /** @param some writes some of the bytes, at least one, and says how many */
  constructor(private readonly some: (bytes: Uint8Array) => number | Promise<number>) {}

  /** Resolves when all that was given is written; rejects as `some` does. */
  get written(): Promise<void> {
    return this.#writing ?? Promise.resolve();
  }

  /** @param bytes not to be changed until they are written */
  write(bytes: Uint8Array): Promise<void> {
    this.#unwritten.push(bytes);
    return this.#writing ??= this.#writeAll();
  }

  async #writeAll(): Promise<void> {
    try {
      await Promise.resolve();
      while (this.#unwritten.length > 0) {
        const parts = this.#unwritten.splice(0);
        if (parts.length === 1) await this.#writeOne(parts[0]!);
        else await this.#writeJoined(parts);
      }
    } catch (error) {
      this.#unwritten = [];
      throw error;
    } finally {
      this.#writing = undefined;
    }
  }

  async #writeJoined(parts: readonly Uint8Array[]): Promise<void> {
    const batch = join(parts);
    try {
      await this.#writeOne(batch);
    } finally {
      // It may hold a copy of a secret.
      batch.fill(0);
    }
  }

  async #writeOne(bytes: Uint8Array): Promise<void> {
    for (let written = 0; written < bytes.length;) {
      written += await this.some(bytes.subarray(written));
    }
  }
}

function join(parts: readonly Uint8Array[]): Uint8Array {
  const joined = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}
