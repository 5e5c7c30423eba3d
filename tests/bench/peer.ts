import { spawn } from "node:child_process";
import { once } from "node:events";
import process from "node:process";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import type { WriteEnd } from "./write_end.ts";

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
  private constructor(private readonly process: ReturnType<typeof start>) {}

  /** Starts the peer's process and connects it with `end`. */
  static async connect(end: WriteEnd): Promise<Peer> {
    const child = start(end);
    const nextLine = linesOf(child.stdout);
    const peer = new Peer(child);
    await peer.#say(JSON.stringify(end.description));
    end.connect(JSON.parse(await nextLine() ?? "null"));
    if (await nextLine() !== "ready") throw new Error("the peer's process has failed");
    return peer;
  }

  /** Lets the peer lead a ping-pong; the caller follows at once. */
  async lead(rounds: number): Promise<void> {
    await this.#say(String(rounds));
  }

  /** Resolves when the line is on its way: this thread may not come back to its events for long. */
  #say(line: string): Promise<void> {
    return new Promise((resolve, reject) =>
      this.process.stdin.write(`${line}\n`, (error) => error ? reject(error) : resolve())
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.process.stdin.end();
    if (this.process.exitCode === null) await once(this.process, "exit");
  }
}

function start({ size, depth }: WriteEnd) {
  const program = fileURLToPath(new URL("./peer_process.ts", import.meta.url));
  const options = ["run", "-A", "--no-check", "--cached-only"];
  return spawn(process.execPath, [...options, program, String(size), String(depth)], {
    stdio: ["pipe", "pipe", "inherit"],
  });
}
