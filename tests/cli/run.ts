import { TextLineStream } from "@std/streams/text-line-stream";
import { tlsArguments } from "../tls_backend.ts";

/** What a finished program leaves. */
export interface Finished {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Path of a file beside this one. */
export function beside(name: string): string {
  return new URL(name, import.meta.url).pathname;
}

/** Runs a command to its end. */
export function run(command: string, ...args: string[]): Promise<Finished> {
  return finish(command, args, {});
}

async function finish(
  command: string,
  args: string[],
  environment: Record<string, string>,
): Promise<Finished> {
  // On a terminal Deno tells of caches that it shares with other tests, and could not open at once.
  const env = { NO_COLOR: "1", DENO_LOG: "off", ...environment };
  const options = { args, stdin: "null", env } as const;
  const { code, stdout, stderr } = await new Deno.Command(command, options).output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

const program = ["run", "-A", "--no-check", beside("../../main.ts")];

/** Runs the real program. */
export function verbseal(...args: string[]): Promise<Finished> {
  return verbsealIn({}, ...args);
}

/** Runs the real program with more in its environment. */
export function verbsealIn(
  environment: Record<string, string>,
  ...args: string[]
): Promise<Finished> {
  // Before what a test says: the last one counts.
  if (args[0] === "client") args.splice(2, 0, ...tlsArguments);
  return finish(Deno.execPath(), [...program, ...args], environment);
}

/** A server that listens. Disposing it ends it. */
export interface RunningServer extends AsyncDisposable {
  readonly port: number;
  /** With `--messages-listen`. */
  readonly messagesPort: number | undefined;
  readonly pid: number;
  /** Tells it to end, and gives its exit status and its log. */
  stop(): Promise<{ status: number; log: string }>;
}

/** Starts a server of the real program, on a port that the system chooses, with ./certs and these options. */
export async function startServer(
  directory: string,
  options: readonly string[],
  environment: Record<string, string> = {},
): Promise<RunningServer> {
  const child = new Deno.Command(Deno.execPath(), {
    args: [...program, "server", "--port", "0", ...tlsArguments, ...options, "--json"],
    cwd: directory,
    env: environment,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const log = new Response(child.stderr).text();
  const lines = child.stdout.pipeThrough(new TextDecoderStream())
    .pipeThrough(new TextLineStream()).getReader();
  // It says one thing only, when it listens.
  const { value } = await lines.read();
  if (value === undefined) throw new Error(`the server ended: ${await log}`);
  const { address, messagesAddress } = JSON.parse(value).listening;
  let ended: ReturnType<RunningServer["stop"]> | undefined;
  const end = async () => {
    child.kill("SIGTERM");
    const { code } = await child.status;
    await lines.cancel();
    return { status: code, log: await log };
  };
  const stop = () => ended ??= end();
  return {
    port: address.port,
    messagesPort: messagesAddress?.port,
    pid: child.pid,
    stop,
    async [Symbol.asyncDispose]() {
      await stop();
    },
  };
}
