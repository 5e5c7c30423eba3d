import { spawn } from "node:child_process";
import { once } from "node:events";
import process from "node:process";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import type { EndOptions, WriteEnd } from "./write_end.ts";

/** The line that asks the peer's process for its memory. */
export const MEMORY = "memory";

/** Lines of a stream one by one, undefined at its end. */
export function linesOf(input: Readable): () => Promise<string | undefined> {
  const lines = createInterface({ input })[Symbol.asyncIterator]();
  return async () => {
    const { value, done } = await lines.next();
    return done ? undefined : value;
  };
}

/** The other end of Verbseal's half of a WRITE benchmark, as this process sees it. */
export class Peer implements AsyncDisposable {
  readonly #process: ReturnType<typeof start>;
  readonly #nextLine: () => Promise<string | undefined>;

  private constructor(options: EndOptions) {
    this.#process = start(options);
    this.#nextLine = linesOf(this.#process.stdout);
  }

  /** Starts the peer's process and connects it with `end`. */
  static async connect(end: WriteEnd): Promise<Peer> {
    const peer = new Peer(end.options);
    await peer.#say(JSON.stringify(end.description));
    end.connect(JSON.parse(await peer.#answer()));
    if (await peer.#answer() !== "ready") throw new Error("the peer's process is not ready");
    return peer;
  }

  /** Lets the peer lead a ping-pong; the caller follows at once. */
  async lead(rounds: number): Promise<void> {
    await this.#say(String(rounds));
  }

  /** Bytes that the peer's process occupies. */
  async memory(): Promise<number> {
    await this.#say(MEMORY);
    return Number(await this.#answer());
  }

  /** Resolves when the line is on its way: this thread may not come back to its events for long. */
  #say(line: string): Promise<void> {
    return new Promise((resolve, reject) =>
      this.#process.stdin.write(`${line}\n`, (error) => error ? reject(error) : resolve())
    );
  }

  async #answer(): Promise<string> {
    const line = await this.#nextLine();
    if (line === undefined) throw new Error("the peer's process has failed");
    return line;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.stdin.end();
    if (this.#process.exitCode === null) await once(this.#process, "exit");
  }
}

function start(options: EndOptions) {
  return startProcess("./peer_process.ts", JSON.stringify(options));
}

/**
 * Starts a program of this directory, which may ask for its own memory without garbage.
 *
 * @param within the command that runs it, if any
 */
export function startProcess(name: string, argument: string, within: readonly string[] = []) {
  const program = fileURLToPath(new URL(name, import.meta.url));
  // Garbage must not count as memory in use.
  const flags = ["run", "-A", "--no-check", "--cached-only", "--v8-flags=--expose-gc"];
  const [command, ...args] = [...within, process.execPath, ...flags, program, argument];
  return spawn(command!, args, { stdio: ["pipe", "pipe", "inherit"] });
}
