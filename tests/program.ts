/** The compiled program, run as its users run it. */
import { EXECUTABLE } from "../.ci/compile.ts";
import { libc } from "../ffi/libc.ts";
import { assertEquals } from "@std/assert";
import { TextLineStream } from "@std/streams/text-line-stream";
import { join } from "node:path";
import { createCertificates } from "../lib/tls/certificates.ts";
import { writeCertificates } from "../lib/tls/certificate_files.ts";
import { provider } from "./provider.ts";
import { tlsArguments } from "./tls_backend.ts";

// Certificates are written by it, and Deno's check for leaks wants it there before the first test.
libc();

/** Path of the compiled program. */
export const executable = Deno.env.get("VERBSEAL") ?? EXECUTABLE;

/** How a run of the program ended. */
export interface Run {
  readonly status: number;
  readonly stdout: Uint8Array;
  readonly stderr: string;
  /** Lines of standard output, of runs with `--json`. */
  readonly records: Record<string, unknown>[];
}

/** Runs the program to its end. */
export async function run(
  args: readonly string[],
  options: { stdin?: Uint8Array; cwd?: string; environment?: Record<string, string> } = {},
): Promise<Run> {
  const child = new Deno.Command(executable, {
    args: [...args],
    stdin: options.stdin ? "piped" : "null",
    stdout: "piped",
    stderr: "piped",
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.environment === undefined ? {} : { env: options.environment }),
  }).spawn();
  if (options.stdin) {
    const writer = child.stdin.getWriter();
    // A program that ends early reads no more.
    await writer.write(options.stdin).then(() => writer.close(), () => {});
  }
  const { code, stdout, stderr } = await child.output();
  return {
    status: code,
    stdout,
    stderr: new TextDecoder().decode(stderr),
    records: args.includes("--json") ? recordsOf(new TextDecoder().decode(stdout)) : [],
  };
}

/** The objects that a run with `--json` has printed. */
export function recordsOf(text: string): Record<string, unknown>[] {
  return text.split("\n").filter((line) => line !== "").map((line) => JSON.parse(line));
}

/** A directory with certificates for the provider's address, and room for files; gone when disposed. */
export class Workspace implements AsyncDisposable {
  private constructor(readonly path: string) {}

  static async create(...hosts: string[]): Promise<Workspace> {
    const path = await Deno.makeTempDir({ prefix: "verbseal-" });
    const certificates = await createCertificates({ hosts: [provider.address, ...hosts], days: 1 });
    await writeCertificates(join(path, "certs"), certificates, { overwrite: false });
    await Deno.mkdir(join(path, "root"));
    return new Workspace(path);
  }

  /** Directory that servers serve. */
  get root(): string {
    return join(this.path, "root");
  }

  file(name: string): string {
    return join(this.path, name);
  }

  /** Runs `verbseal client COMMAND HOST ARGS… --json`, trusting this workspace's authority. */
  client(
    server: RunningServer,
    command: string,
    args: readonly string[] = [],
    options: { stdin?: Uint8Array } = {},
  ): Promise<Run> {
    const trust = ["--ca", this.file("certs/ca.pem")];
    return run(
      ["client", command, ...reaching(server), ...args, ...trust, "--json"],
      { cwd: this.path, ...options },
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.path, { recursive: true });
  }
}

/** Arguments with which a client command reaches a server. */
export function reaching({ port }: RunningServer): string[] {
  return [`${provider.address}:${port}`, "--device", provider.device, ...tlsArguments];
}

/** A line of a server's log, with `--log-format json`. */
export type LogLine = Record<string, unknown> & { readonly message: string };

/** A server of the compiled program, with its log. Disposing it ends it. */
export class RunningServer implements AsyncDisposable {
  readonly log: LogLine[] = [];
  readonly #child: Deno.ChildProcess;
  readonly #waiting = new Set<() => void>();
  #port = 0;
  #messagesPort: number | undefined;
  #metricsPort: number | undefined;
  #reading: Promise<unknown> = Promise.resolve();

  private constructor(child: Deno.ChildProcess) {
    this.#child = child;
  }

  /**
   * Starts a server on a port that the system chooses, and waits until it listens.
   *
   * @param wrapper command and arguments that run it, as `prlimit` does
   */
  static async start(
    workspace: Workspace,
    args: readonly string[] = [],
    environment: Record<string, string> = {},
    wrapper: readonly string[] = [],
  ): Promise<RunningServer> {
    const options = [
      ...["--port", "0", "--device", provider.device, "--root", workspace.root],
      ...["--log-format", "json", "--json", ...tlsArguments],
    ];
    const [command, ...words] = [...wrapper, executable, "server"];
    const child = new Deno.Command(command!, {
      args: [...words, ...options, ...args],
      cwd: workspace.path,
      env: environment,
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const server = new RunningServer(child);
    await server.#watch();
    return server;
  }

  get port(): number {
    return this.#port;
  }

  /** With `--messages-listen`. */
  get messagesPort(): number | undefined {
    return this.#messagesPort;
  }

  /** With `--metrics-listen`. */
  get metricsPort(): number | undefined {
    return this.#metricsPort;
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** The first line of the log, from now or before, that is as wanted. */
  async logged(wanted: (line: LogLine) => boolean): Promise<LogLine> {
    for (;;) {
      const line = this.log.find(wanted);
      if (line) return line;
      const more = Promise.withResolvers<void>();
      this.#waiting.add(more.resolve);
      await more.promise;
    }
  }

  #takePorts(facts: Record<string, { port: number } | undefined>): void {
    this.#port = facts["address"]!.port;
    this.#messagesPort = facts["messagesAddress"]?.port;
    this.#metricsPort = facts["metricsAddress"]?.port;
  }

  /** Sends a signal and gives the exit status. */
  async stop(signal: Deno.Signal = "SIGTERM"): Promise<number> {
    this.#child.kill(signal);
    const { code } = await this.#child.status;
    await this.#reading;
    return code;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // it has ended already
    }
    await this.#child.status;
    await this.#reading;
  }

  async #watch(): Promise<void> {
    const listening = Promise.withResolvers<void>();
    const records = eachLine(this.#child.stdout, (line) => {
      const { listening: facts } = JSON.parse(line);
      if (facts) this.#takePorts(facts);
      listening.resolve();
    });
    const log = eachLine(this.#child.stderr, (line) => {
      this.log.push(line.startsWith("{") ? JSON.parse(line) : { message: line });
      for (const resolve of this.#waiting) resolve();
      this.#waiting.clear();
    });
    this.#reading = Promise.all([records, log]);
    await Promise.race([
      listening.promise,
      this.#reading.then(() => {
        throw new Error(`the server ended: ${JSON.stringify(this.log)}`);
      }),
    ]);
  }
}

async function eachLine(
  stream: ReadableStream<Uint8Array>,
  take: (line: string) => void,
): Promise<void> {
  const lines = stream.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream());
  for await (const line of lines) take(line);
}

/**
 * What is held of the provider. Over libibverbs the kernel counts pd, cq, qp, mr, cm_id and ctx of
 * all processes; the embedded provider is made of sockets, here of this process and of servers.
 */
export async function heldResources(
  ...servers: readonly RunningServer[]
): Promise<Record<string, number>> {
  if (provider.name === "roce") return heldSockets(servers);
  const { stdout } = await new Deno.Command("rdma", { args: ["resource", "show"] }).output();
  const counts = new TextDecoder().decode(stdout).matchAll(/(\w+) (\d+)/g);
  return Object.fromEntries([...counts].map(([, name, count]) => [name, Number(count)]));
}

/** Sockets for UDP, and the servers' open files; TCP waits a moment for a peer that does not hang up. */
function heldSockets(servers: readonly RunningServer[]): Record<string, number> {
  const udp = new Set(["udp", "udp6"].flatMap(udpInodes));
  const own = openFiles(Deno.pid);
  const theirs = servers.flatMap(({ pid }) => openFiles(pid));
  return {
    udp: [...own, ...theirs].filter((file) => udp.has(file)).length,
    files: theirs.filter((file) => !file.startsWith("socket:")).length,
  };
}

/** As {@linkcode openFiles} names them. */
function udpInodes(protocol: string): string[] {
  const lines = Deno.readTextFileSync(`/proc/net/${protocol}`).trim().split("\n").slice(1);
  return lines.map((line) => `socket:[${line.trim().split(/\s+/)[9]}]`);
}

function openFiles(pid: number): string[] {
  return [...Deno.readDirSync(`/proc/${pid}/fd`)].flatMap(({ name }) => {
    try {
      return [Deno.readLinkSync(`/proc/${pid}/fd/${name}`)];
    } catch (error) {
      // It was closed meanwhile.
      if (error instanceof Deno.errors.NotFound) return [];
      throw error;
    }
  });
}

/** Waits until `look` gives true; for facts of the kernel, which tells nobody when they change. */
export async function eventually(
  what: string,
  look: () => boolean | Promise<boolean>,
  milliseconds: number,
): Promise<void> {
  const until = performance.now() + milliseconds;
  while (!await look()) {
    if (performance.now() > until) throw new Error(`not within ${milliseconds} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** No more may be held than `before`, a second from now at the latest. */
export async function assertHeld(
  before: Record<string, number>,
  ...servers: readonly RunningServer[]
): Promise<void> {
  let more: [name: string, count: number][] = [];
  const look = async () => {
    const held = Object.entries(await heldResources(...servers));
    more = held.filter(([name, count]) => count > (before[name] ?? 0));
    return more.length === 0;
  };
  // What is left tells more than the wait.
  await eventually("resources are back", look, 1000).catch(() => {});
  assertEquals(more, [], `more than ${JSON.stringify(before)}`);
}

/** SHA-256 of a file, as hexadecimal digits. */
export async function sha256(path: string): Promise<string> {
  const hash = await crypto.subtle.digest("SHA-256", await Deno.readFile(path));
  return new Uint8Array(hash).toHex();
}

/** Writes a file of so many random bytes. */
export async function randomFile(path: string, bytes: number): Promise<void> {
  using file = await Deno.open(path, { write: true, create: true, truncate: true });
  for (let done = 0; done < bytes;) {
    const part = crypto.getRandomValues(new Uint8Array(Math.min(65536, bytes - done)));
    done += await file.write(part);
  }
}
