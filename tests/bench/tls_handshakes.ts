/**
 * Handshakes a second, beside `openssl s_server`, with `openssl s_time` as the client of both: with
 * as many clients at once as a server has to do with when handshakes are many, and with one only,
 * which shows how soon it gets its answers.
 */
import { delay } from "@std/async/delay";
import { spawn } from "node:child_process";
import { once } from "node:events";
import type { Backend } from "../../lib/tls/backend.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import type { Identity } from "../../lib/tls/trust.ts";
import type { Figure } from "./figure.ts";
import { measureInTurn } from "./in_turn.ts";
import { LOOPBACK } from "./loopback.ts";
import { linesOf, startProcess } from "./peer.ts";

const runs = 5;

/** Seconds of one run of s_time. */
const seconds = 2;

/**
 * Anew by TLS 1.3, and resumed by TLS 1.2, as s_time never resumes with 1.3. It prints a mark for each
 * connection.
 */
const kinds = {
  new: { options: ["-new", "-tls1_3"], mark: "*", what: "TLS 1.3, each anew" },
  resumed: { options: ["-reuse", "-tls1_2"], mark: "r", what: "TLS 1.2, each resumed" },
} as const;

type Kind = keyof typeof kinds;

/** Programs that shake hands at once. */
const CLIENTS = 4;

/** New handshakes a second, by each library that speaks TLS. */
export function newHandshakes(): AsyncGenerator<Figure> {
  return handshakes("new", CLIENTS);
}

/** Resumed handshakes a second, by each library that speaks TLS. */
export function resumedHandshakes(): AsyncGenerator<Figure> {
  return handshakes("resumed", CLIENTS);
}

/** The same with one client, which makes one connection after the other. */
export async function* handshakesOfOneClient(): AsyncGenerator<Figure> {
  yield* handshakes("new", 1);
  yield* handshakes("resumed", 1);
}

async function* handshakes(kind: Kind, clients: number): AsyncGenerator<Figure> {
  const { server: identity } = await createCertificates({ hosts: [LOOPBACK], days: 1 });
  await using theirs = await OpensslServer.start(identity);
  for (const backend of ["deno", "openssl"] as const) {
    await using ours = await VerbsealServer.start(backend, identity);
    yield await measureInTurn({
      subject: {
        bench: `tls.handshake.${clients === 1 ? "one." : ""}${kind}`,
        size: 0,
        backend,
        peer: "openssl s_server",
        unit: "1/s",
        // One client shows how soon an answer comes, and not how many there can be.
        ...(clients === 1 ? {} : { leastRatio: 1 }),
        settings: `${kinds[kind].what}, P-256, over loopback, ${clients} openssl s_time at once ` +
          `for ${seconds} s; median of ${runs} runs of each in turn`,
      },
      runs,
      ours: () => rate(kind, clients, ours.port),
      theirs: () => rate(kind, clients, theirs.port),
    });
  }
}

/** Handshakes a second by `openssl s_time`, which itself counts in whole seconds only. */
async function rate(kind: Kind, clients: number, port: number): Promise<number> {
  const rates = await Promise.all(Array.from({ length: clients }, () => rateOfOne(kind, port)));
  return rates.reduce((sum, one) => sum + one);
}

async function rateOfOne(kind: Kind, port: number): Promise<number> {
  const started = performance.now();
  const { stdout } = await new Deno.Command("openssl", {
    args: ["s_time", "-connect", `${LOOPBACK}:${port}`, "-time", String(seconds)]
      .concat(kinds[kind].options),
    stdin: "null",
    stderr: "null",
  }).output();
  const elapsed = (performance.now() - started) / 1000;
  const text = new TextDecoder().decode(stdout);
  const [, count] = /(\d+) connections in \d+ real seconds/.exec(text) ?? [];
  if (count === undefined) throw new Error("openssl s_time has not counted its connections");
  const [marks = ""] = /^[*r]+$/m.exec(text) ?? [];
  if (marks !== kinds[kind].mark.repeat(Number(count))) {
    throw new Error(`not all ${count} handshakes were ${kinds[kind].what}`);
  }
  return Number(count) / elapsed;
}

class VerbsealServer implements AsyncDisposable {
  private constructor(
    private readonly process: ReturnType<typeof startProcess>,
    readonly port: number,
  ) {}

  static async start(backend: Backend, identity: Identity): Promise<VerbsealServer> {
    const process = startProcess(
      "./tls_handshakes_process.ts",
      JSON.stringify({ backend, identity }),
    );
    const nextLine = linesOf(process.stdout);
    return new VerbsealServer(process, Number(await nextLine()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.process.stdin.end();
    if (this.process.exitCode === null) await once(this.process, "exit");
  }
}

class OpensslServer implements AsyncDisposable {
  private constructor(
    private readonly process: ReturnType<typeof spawn>,
    private readonly folder: string,
    readonly port: number,
  ) {}

  static async start({ certificate, key }: Identity): Promise<OpensslServer> {
    const folder = await Deno.makeTempDir();
    await Deno.writeTextFile(`${folder}/server.pem`, certificate);
    await Deno.writeTextFile(`${folder}/server.key`, key);
    const port = freePort();
    const files = ["-cert", `${folder}/server.pem`, "-key", `${folder}/server.key`];
    // One ticket, as ours: each costs both sides a record.
    const tickets = ["-num_tickets", "1"];
    const process = spawn(
      "openssl",
      ["s_server", "-accept", `${LOOPBACK}:${port}`, ...files, ...tickets],
      { stdio: ["pipe", "ignore", "ignore"] },
    );
    await listening(port);
    return new OpensslServer(process, folder, port);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.process.kill();
    if (this.process.exitCode === null) await once(this.process, "exit");
    await Deno.remove(this.folder, { recursive: true });
  }
}

/** What s_server says when it listens is lost among what it says of each connection. */
async function listening(port: number): Promise<void> {
  for (let attempt = 1;; attempt++) {
    try {
      (await Deno.connect({ hostname: LOOPBACK, port })).close();
      return;
    } catch (error) {
      if (attempt === 100) throw error;
      await delay(50);
    }
  }
}

/** s_server tells nobody which port the system has chosen for it. */
function freePort(): number {
  using listener = Deno.listen({ hostname: LOOPBACK, port: 0 });
  return listener.addr.port;
}
