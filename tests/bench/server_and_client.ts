/** Programs of others that measure between a server and a client, run on this machine. */
import { delay } from "@std/async/delay";

const decoder = new TextDecoder();

/** Milliseconds in which a server must begin to listen. */
const PATIENCE = 30_000;

/** What to run. */
export interface ServerAndClient {
  readonly program: string;
  readonly server: readonly string[];
  readonly client: readonly string[];
  /** Where the server listens when it is ready. */
  readonly listens: { readonly protocol: "tcp" | "udp"; readonly port: number };
  /** What ends the server, where it does not end with the client. */
  readonly endedBy?: Deno.Signal;
}

/** A program failed, or printed something else than a report. */
export class ProgramError extends Error {
  override readonly name: string = "ProgramError";
}

/**
 * Runs both ends to their end and gives what the client printed.
 *
 * @throws ProgramError with what was printed, if an end fails
 */
export async function runServerAndClient(
  job: ServerAndClient,
): Promise<{ stdout: string; stderr: string }> {
  const { program } = job;
  const server = spawn(program, job.server);
  const serverOutput = server.output();
  try {
    const failed = serverOutput.then((output) => refuseFailure(program, output));
    await Promise.race([listening(job), failed]);
    const client = await spawn(program, job.client).output();
    refuseFailure(program, client);
    if (job.endedBy) server.kill(job.endedBy);
    refuseFailure(program, await serverOutput);
    const [stdout, stderr] = [client.stdout, client.stderr].map((each) => decoder.decode(each));
    return { stdout: stdout!, stderr: stderr! };
  } catch (error) {
    try {
      server.kill("SIGKILL");
    } catch {
      // It has ended by itself.
    }
    await serverOutput;
    throw error;
  }
}

/** A port of 127.0.0.1 that nobody has at present. */
export function unusedPort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

function spawn(program: string, args: readonly string[]): Deno.ChildProcess {
  return new Deno.Command(program, {
    args: [...args],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

function refuseFailure(
  program: string,
  { success, code, stdout, stderr }: Deno.CommandOutput,
): void {
  if (success) return;
  const text = decoder.decode(stdout) + decoder.decode(stderr);
  throw new ProgramError(`${program} ended with status ${code}:\n${text}`);
}

/** States of sockets in the kernel's tables: a UDP socket that waits is "closed" (tcp_states.h). */
const waiting = { tcp: "0A", udp: "07" } as const;

/** Waits until the server listens. Some say so before they do, so the kernel's table is asked. */
async function listening({ program, listens: { protocol, port } }: ServerAndClient): Promise<void> {
  const number = port.toString(16).toUpperCase().padStart(4, "0");
  const socket = new RegExp(`:${number} \\S+ ${waiting[protocol]} `);
  const deadline = performance.now() + PATIENCE;
  while (!socket.test(await Deno.readTextFile(`/proc/net/${protocol}`))) {
    if (performance.now() > deadline) throw new ProgramError(`${program}'s server does not listen`);
    await delay(10);
  }
}
