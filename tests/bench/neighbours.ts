/** What a client keeps of its bandwidth beside a hostile one, compared with an equally loaded one that means well. */
import { deadline } from "@std/async/deadline";
import { delay } from "@std/async/delay";
import { once } from "node:events";
import { startServer } from "../cli/run.ts";
import { Workspace } from "../program.ts";
import { provider, rxe } from "../provider.ts";
import { NetworkNamespace } from "../vm/namespace.ts";
import type { Figure } from "./figure.ts";
import { measureInTurn } from "./in_turn.ts";
import { linesOf, startProcess } from "./peer.ts";
import { finish } from "./scp.ts";

const runs = provider === rxe ? 11 : 15;

/** Seconds of a run, and those before in which a neighbour that has rested spends what it has saved up of its limits. */
const seconds = provider === rxe ? { measured: 1.5, before: 0.5 } : { measured: 1, before: 0.5 };

/**
 * The server has the first one, the client that is measured the second, and neighbours the last,
 * which is the second, too, where there are but two.
 */
const processors = navigator.hardwareConcurrency;

/** Milliseconds in which a client does what it is told; longer than any load takes to come to rest. */
const PATIENCE = 120_000;

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

/** What a client that runs is told. */
export type Order =
  | { readonly what: "work" | "rest" }
  | { readonly what: "measure"; readonly seconds: number };

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
  // client has of its own: so the server has a processor for itself, as if it were a host, and each
  // client too, where there are three. With two, neighbours take as much of the clients' whether they
  // mean well or not.
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
  await honest.work();
  const beside = async (neighbour: Neighbour) => {
    await neighbour.work();
    await delay(seconds.before * 1000);
    const rate = await honest.measure();
    await neighbour.rest();
    return rate;
  };
  const other = building.use(await start("honest", true));
  for (const load of kinds) {
    await using bad = await start(load, true);
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
      ours: () => beside(bad),
      theirs: () => beside(other),
    });
  }
}

function settings(load: keyof typeof hostile): string {
  return `echo of 32 KiB, four at once, of one client beside another of the same server, each a ` +
    `process, the neighbour a busy one, by ${
      provider === rxe
        ? `rxe0, on ${processors} emulated processors, be it that the host has fewer`
        : "the embedded provider"
    }; ${placement()}` +
    `Verbseal: beside ${hostile[load]}; peer: beside a client that does the same as the one ` +
    `measured; medians of ${runs} runs of ${seconds.measured} s each, in turn`;
}

function placement(): string {
  if (processors === 1) return "";
  const clients = processors === 2 ? "both clients on the other" : "each client on another";
  return `the server on one processor, ${clients}; `;
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
      ...(processors > 1 ? ["taskset", "--cpu-list", `${options.busy ? processors - 1 : 1}`] : []),
    ];
    const process = startProcess("./neighbour_process.ts", JSON.stringify(options), within);
    const nextLine = linesOf(process.stdout);
    if (await nextLine() !== "begun") throw new Error(`the load ${options.load} has not begun`);
    return new Neighbour(process, nextLine);
  }

  /** It begins, or goes on. */
  async work(): Promise<void> {
    await this.#order({ what: "work" });
  }

  /** Resolves when what it had under way is done. */
  async rest(): Promise<void> {
    await this.#order({ what: "rest" });
  }

  /** MB/s of its messages from now on. */
  async measure(): Promise<number> {
    return Number(await this.#order({ what: "measure", seconds: seconds.measured }));
  }

  async #order(order: Order): Promise<string> {
    this.process.stdin.write(`${JSON.stringify(order)}\n`);
    const line = await deadline(this.nextLine(), PATIENCE);
    if (line === undefined) throw new Error("a client has failed");
    return line;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.process.stdin.end();
    if (this.process.exitCode === null) await once(this.process, "exit");
  }
}
