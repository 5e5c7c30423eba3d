/** What a client keeps of its bandwidth beside a hostile one, compared with an equally loaded one that means well. */
import { once } from "node:events";
import { startServer } from "../cli/run.ts";
import { Workspace } from "../program.ts";
import { provider, rxe } from "../provider.ts";
import { NetworkNamespace } from "../vm/namespace.ts";
import type { Figure } from "./figure.ts";
import { measureInTurn } from "./in_turn.ts";
import { linesOf, startProcess } from "./peer.ts";
import { finish } from "./scp.ts";

const runs = provider === rxe ? 3 : 9;
const seconds = 2;

/** The server has the first one, and its clients the others, where there are several. */
const processors = navigator.hardwareConcurrency;

/** The part that a client keeps at least beside a hostile one of what it has beside one that means well. */
const KEPT_PART = 0.9;

const hostile = {
  messages: "tiny messages, 128 at once",
  large: "messages of 1 MiB, four at once",
  grants: "one grant after the other for a single byte",
  reads: "READs of 64 KiB of what it was granted once, 16 at once",
  tinyReads: "READs of a byte at an odd address, 16 at once",
  frames: "control frames, PINGs in one session and REQUESTs in another",
  packets: "packets of its own making that have come already, as fast as it can",
  sessions: "sessions that are opened and given up, four at once",
  requeues: "sessions whose queue pair is to be replaced again and again, four at once",
  unreceived: "questions without a receive for their answers, in four sessions at once",
} as const;

/** What a neighbour does: as the client that is measured does, or the worst of its kind. */
export type Load = "honest" | keyof typeof hostile;

/** Where a neighbour's queue pair is. */
export interface Place {
  /** As `--device` takes it. */
  readonly device: string;
  readonly address: string;
}

/** What a neighbour is told. */
export interface NeighbourOptions {
  readonly load: Load;
  readonly port: number;
  /** PEM. */
  readonly authority: string;
  readonly place: Place;
  /** It takes a whole processor, whatever it does with it. */
  readonly busy: boolean;
}

const kinds = Object.keys(hostile) as (keyof typeof hostile)[];

/** One figure for each kind of hostile neighbour. */
export async function* besideNeighbours(bench: string): AsyncGenerator<Figure> {
  await using building = new AsyncDisposableStack();
  // Before any device is opened: the port goes down meanwhile.
  const far = provider === rxe ? building.use(await NetworkNamespace.create()) : undefined;
  const workspace = building.use(await Workspace.create());
  const authority = await Deno.readTextFile(workspace.file("certs/ca.pem"));
  // A neighbour whom the others leave no processor takes its time to come in.
  const options = ["--device", provider.device, "--handshake-timeout", "60s"];
  const { port, pid } = building.use(await startServer(workspace.path, options));
  // All run on one machine. What is done for a neighbour, here and there, is not to take what another
  // client has of its own: so the server has a processor for itself, as if it were a host, and
  // neighbours take as much of the clients' whether they mean well or not.
  if (processors > 1) {
    await finish("taskset", ["--all-tasks", "--cpu-list", "--pid", "0", `${pid}`]);
  }
  const start = (load: Load, busy: boolean) => {
    const host = load === "packets" ? far : undefined;
    const address = host ? NetworkNamespace.addresses.ipv4 : provider.address;
    const place = { address, device: host ? `roce:${address}` : provider.device };
    return Neighbour.start({ load, port, authority, place, busy }, host);
  };
  const honest = building.use(await start("honest", false));
  const beside = async (load: Load) => {
    await using _neighbour = await start(load, true);
    return await honest.measure();
  };
  for (const load of kinds) {
    const subject = {
      bench: `${bench}.${load}`,
      size: 32_768,
      peer: "beside one that means well",
      unit: "MB/s",
      leastRatio: KEPT_PART,
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
    `process, the neighbour a busy one, by ${
      provider === rxe ? "rxe0, on an emulated processor" : "the embedded provider"
    }; ${
      processors > 1 ? `the server on one of ${processors} processors, clients on the others; ` : ""
    }` +
    `Verbseal: beside ${hostile[load]}; peer: beside a client that does the same as the one ` +
    `measured; medians of ${runs} runs of ${seconds} s each, in turn`;
}

/** A client in a process of its own. */
class Neighbour implements AsyncDisposable {
  private constructor(
    private readonly process: ReturnType<typeof startProcess>,
    private readonly nextLine: () => Promise<string | undefined>,
  ) {}

  /** @param host another than this one: packets of a device to itself use no wire */
  static async start(options: NeighbourOptions, host?: NetworkNamespace): Promise<Neighbour> {
    const within = [
      ...(host ? ["ip", "netns", "exec", host.name] : []),
      ...(processors > 1 ? ["taskset", "--cpu-list", `1-${processors - 1}`] : []),
    ];
    const process = startProcess("./neighbour_process.ts", JSON.stringify(options), within);
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
