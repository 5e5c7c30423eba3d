import { assertEquals } from "@std/assert";

/** A program of rdma-core or perftest, run as its users run it. Disposing it ends it. */
export class Program implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #output: Promise<Deno.CommandOutput>;

  constructor(private readonly name: string, private readonly args: readonly string[]) {
    this.#child = new Deno.Command(name, {
      args: [...args],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#output = this.#child.output();
  }

  /** Bytes of its memory, as they are now. */
  readonly readMemory = (address: number, length: number): Uint8Array => {
    using memory = Deno.openSync(`/proc/${this.#child.pid}/mem`);
    memory.seekSync(address, Deno.SeekMode.Start);
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length;) {
      done += memory.readSync(bytes.subarray(done)) ?? 0;
    }
    return bytes;
  };

  /** Awaits its end, which must be with exit status 0. */
  async succeeded(): Promise<void> {
    const { code, stdout, stderr } = await this.#output;
    const said = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes)).join("");
    assertEquals(code, 0, `${this.name} ${this.args.join(" ")} ended with ${code}:\n${said}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // it has ended already
    }
    await this.#output;
  }
}
