import { delay } from "@std/async/delay";

/** The connection in plain TCP by which the programs exchange what their queue pairs need. */
export class PlainExchange implements Disposable {
  constructor(private readonly connection: Deno.Conn) {}

  /**
   * Meets a program that listens here, or soon will.
   *
   * @throws Deno.errors.ConnectionRefused when it does not within 30 seconds
   */
  static async dial(port: number): Promise<PlainExchange> {
    for (const until = performance.now() + 30_000;;) {
      try {
        return new PlainExchange(await Deno.connect({ hostname: "127.0.0.1", port }));
      } catch (error) {
        // The programs do not say when they listen.
        const refused = error instanceof Deno.errors.ConnectionRefused;
        if (!refused || performance.now() > until) throw error;
        await delay(20);
      }
    }
  }

  /** @throws Error when the program closes the connection before */
  async read(length: number): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length;) {
      const count = await this.connection.read(bytes.subarray(done));
      if (count === null) throw new Error(`the program hung up: ${done} of ${length} bytes came`);
      done += count;
    }
    return bytes;
  }

  /** Reads text that C ended with a zero byte. */
  async readText(length: number): Promise<string> {
    return new TextDecoder().decode(await this.read(length)).split("\0")[0]!;
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length;) {
      done += await this.connection.write(bytes.subarray(done));
    }
  }

  /** Writes text and zero bytes after it. */
  async writeText(text: string, length = text.length + 1): Promise<void> {
    const bytes = new Uint8Array(length);
    new TextEncoder().encodeInto(text, bytes);
    await this.write(bytes);
  }

  [Symbol.dispose](): void {
    this.connection.close();
  }
}
