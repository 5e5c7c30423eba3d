/** What a client keeps of its bandwidth beside a hostile one, compared with an equally loaded one that means well. */
import { once } from "node:events";
import { startServer } from "../cli/run.ts";
import { Workspace } from "../program.ts";
import { provider, rxe } from "../provider.ts";
import type { Figure } from "./figure.ts";
import { measureInTurn } from "./in_turn.ts";
import { linesOf, startProcess } from "./peer.ts";

const runs = provider === rxe ? 3 : 5;
const seconds = 2;

/** What a neighbour does: as the client that is measured does, or the worst of its kind. */
export type Load = "honest" | "messages" | "grants" | "sessions" | "packets";

/** What a neighbour is told. */
export interface NeighbourOptions {
  readonly load: Load;
  readonly port: number;
  /** PEM. */
  readonly authority: string;
}

const hostile: Record<Exclude<Load, "honest">, string> = {
  messages: "tiny messages, 128 at once",
  grants: "one grant after the other for a single byte",
  packets: "packets of its own making that have come already, as fast as it can",
  sessions: "sessions that are opened and given up, four at once",
};

/** In the guest, whose processors are emulated, clients take long to begin; and there is no wire for packets. */
const kinds: readonly (keyof typeof hostile)[] = provider === rxe
  ? ["messages", "grants"]
  : ["messages", "grants", "sessions", "packets"];

/** One figure for each kind of hostile neighbour. */
export async function* besideNeighbours(bench: string): AsyncGenerator<Figure> {
  await using workspace = await Workspace.create();
  const authority = await Deno.readTextFile(workspace.file("certs/ca.pem"));
  // A neighbour whom the others leave no processor takes its time to come in.
  const options = ["--device", provider.device, "--handshake-timeout", "60s"];
  await using server = await startServer(workspace.path, options);
  const { port } = server;
  await using honest = await Neighbour.start({ load: "honest", port, authority });
  const beside = async (load: Load) => {
    await using _neighbour = await Neighbour.start({ load, port, authority });
    return await honest.measure();
  };
  for (const load of kinds) {
    const subject = {
      bench: `${bench}.${load}`,
      size: 32_768,
      peer: "beside one that means well",
      unit: "MB/s",
      settings: settings(load),
    } as const;
    yield await measureInTurn({
      subject,
      runs,
      ours: () => beside(load),
      theirs: () => beside("honest"),
    });
  }
}

function settings(load: keyof typeof hostile): string {
  return `echo of 32 KiB, four at once, of one client beside another of the same server, each a ` +
    `process, by ${
      provider === rxe ? "rxe0, on an emulated processor" : "the embedded provider"
    }; ` +
    `Verbseal: beside ${hostile[load]}; peer: beside a client that does the same as the one ` +
    `measured; medians of ${runs} runs of ${seconds} s each, in turn`;
}

/** A client in a process of its own. */
class Neighbour implements AsyncDisposable {
  private constructor(
    private readonly process: ReturnType<typeof startProcess>,
    private readonly nextLine: () => Promise<string | undefined>,
  ) {}

  static async start(options: NeighbourOptions): Promise<Neighbour> {
    const process = startProcess("./neighbour_process.ts", JSON.stringify(options));
    const nextLine = linesOf(process.stdout);
    if (await nextLine() !== "begun") throw new Error(`the load ${options.load} has not begun`);
    return new Neighbour(process, nextLine);
  }

  /** MB/s of its messages from now on. */
  async measure(): Promise<number> {
    this.process.stdin.write(`${seconds}\n`);
    const line = await this.nextLine();
    if (line === undefined) throw new Error("the client that is measured has failed");
    return Number(line);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.process.stdin.end();
    if (this.process.exitCode === null) await once(this.process, "exit");
  }
}
