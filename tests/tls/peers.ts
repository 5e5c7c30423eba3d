/** Other programs that speak TLS. */
import { TextLineStream } from "@std/streams/text-line-stream";

const hostname = "127.0.0.1";

/** What Node says of whom it has met, or of why it has not. */
export interface NodeFacts {
  readonly text?: string;
  readonly alpn?: string | false;
  readonly protocol?: string;
  readonly authorized?: boolean;
  readonly subject?: string | null;
  readonly error?: string;
}

/** Runs `openssl s_client` until the server hangs up; what it has printed. */
export async function sClient(
  port: number,
  args: readonly string[],
  input = "",
): Promise<string> {
  const child = new Deno.Command("openssl", {
    args: ["s_client", "-connect", `${hostname}:${port}`, "-alpn", "verbseal/1", ...args],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(input));
  const { stdout, stderr } = await child.output();
  await writer.abort();
  return new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
}

/** A server that another program is; it serves one connection. */
export class PeerServer implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #lines: AsyncIterator<string>;
  #port = 0;

  private constructor(command: string, args: readonly string[]) {
    this.#child = spawn(command, {
      args: [...args],
      stdin: "null",
      stdout: "piped",
      stderr: "null",
    });
    this.#lines = this.#child.stdout
      .pipeThrough(new TextDecoderStream())
      .pipeThrough(new TextLineStream())[Symbol.asyncIterator]();
  }

  /** `openssl s_server`, which answers with lines reversed. */
  static async openssl(...args: readonly string[]): Promise<PeerServer> {
    const own = ["s_server", "-accept", `${hostname}:0`, "-naccept", "1", "-rev"];
    const server = new PeerServer("openssl", [...own, "-alpn", "verbseal/1", ...args]);
    server.#port = Number((await server.#find(/^ACCEPT .*:(\d+)/))[1]);
    return server;
  }

  /** Node's server, with options of tls.createServer. */
  static async node(options: Record<string, unknown>): Promise<PeerServer> {
    const server = new PeerServer("node", [nodePeer, "server", nodeOptions(options)]);
    server.#port = Number((await server.#find(/"port":(\d+)/))[1]);
    return server;
  }

  get port(): number {
    return this.#port;
  }

  /** All that it says until it ends. */
  async said(): Promise<string> {
    const lines: string[] = [];
    for (;;) {
      const { done, value } = await this.#lines.next();
      if (done) return lines.join("\n");
      lines.push(value);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill();
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // it has ended already
    }
    await this.said();
    await this.#child.status;
  }

  async #find(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const { done, value = "" } = await this.#lines.next();
      const match = pattern.exec(value);
      if (match) return match;
      if (done) throw new Error(`the server has not said ${pattern}`);
    }
  }
}

/** Runs Node's client, with options of tls.connect. */
export async function nodeClient(
  port: number,
  options: Record<string, unknown>,
): Promise<NodeFacts> {
  const args = [nodePeer, "client", nodeOptions({ host: hostname, port, ...options })];
  const child = spawn("node", { args, stdin: "null", stdout: "piped", stderr: "inherit" });
  const { stdout } = await child.output();
  return JSON.parse(new TextDecoder().decode(stdout));
}

const nodePeer = new URL("./node_peer.mjs", import.meta.url).pathname;

function nodeOptions(options: Record<string, unknown>): string {
  return JSON.stringify({ ALPNProtocols: ["verbseal/1"], ...options });
}

function spawn(command: string, options: Deno.CommandOptions): Deno.ChildProcess {
  try {
    return new Deno.Command(command, options).spawn();
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new Error(`${command} is needed to try TLS with it: install it, and have it in PATH`);
  }
}
