/** RDMA WRITE over libibverbs, beside ib_write_bw and ib_write_lat. */
import { rxe } from "../provider.ts";
import type { Figure, Subject } from "./figure.ts";
import { measureInTurn } from "./in_turn.ts";
import { Peer } from "./peer.ts";
import { column, type PerftestReport, runPerftest } from "./perftest.ts";
import { WriteEnd } from "./write_end.ts";
import { bandwidthOf, latencyOf } from "./write_runs.ts";

/** Runs of each side. */
const runs = 7;

/** Bandwidth of a stream of WRITEs, for messages of 64 KiB and 1 MiB. */
export async function* writeBandwidth(): AsyncGenerator<Figure> {
  yield await bandwidth(65536, 1200);
  yield await bandwidth(1_048_576, 128);
}

async function bandwidth(size: number, iterations: number): Promise<Figure> {
  // ib_write_bw's default.
  const depth = 128;
  using end = new WriteEnd({ device: rxe.device, size, depth });
  await using _peer = await Peer.connect(end);
  end.stream(iterations);
  return await compare({
    subject: { bench: "verbs.write.bw", size, peer: "ib_write_bw", unit: "MB/s" },
    end,
    iterations,
    meaning: "MB of 2^20 bytes, from the first post to the last completion",
    ours: () => bandwidthOf(end, iterations),
    options: ["-t", String(depth)],
    column: "BW average[MB/sec]",
  });
}

/** Half the round trip of WRITEs of 64 bytes. */
export async function* writeLatency(): AsyncGenerator<Figure> {
  const size = 64;
  const iterations = 4000;
  using end = new WriteEnd({ device: rxe.device, size, depth: 1 });
  await using peer = await Peer.connect(end);
  await latencyOf(end, peer, iterations);
  yield await compare({
    subject: { bench: "verbs.write.lat", size, peer: "ib_write_lat", unit: "us" },
    end,
    iterations,
    meaning: "half the round trip, the median of a run",
    ours: () => latencyOf(end, peer, iterations),
    options: [],
    column: "t_typical[usec]",
  });
}

/** Verbseal and perftest, about to do the same. */
interface Comparison {
  subject: Omit<Subject, "settings" | "peer"> & { peer: string };
  end: WriteEnd;
  iterations: number;
  /** What the figure is, in words. */
  meaning: string;
  ours(): number | Promise<number>;
  /** perftest's options beside those that all have. */
  options: readonly string[];
  /** Where its figure stands. */
  column: string;
}

function compare(comparison: Comparison): Promise<Figure> {
  const { subject, end, iterations, ours } = comparison;
  const args = [
    ...["-F", "-d", rxe.device, "-x", String(end.gid.index), "-m", String(end.port.activeMtu)],
    ...["-s", String(subject.size), "-n", String(iterations)],
    ...comparison.options,
  ];
  return measureInTurn({
    subject: { ...subject, settings: settings(comparison) },
    runs,
    ours,
    theirs: async () => {
      const report = await runPerftest(subject.peer, args, end.address);
      requireSameJob(comparison, report);
      return column(report, comparison.column);
    },
  });
}

/** @throws Error if perftest, by itself, chose something else than Verbseal does */
function requireSameJob({ subject, end, iterations }: Comparison, report: PerftestReport): void {
  const job = {
    size: subject.size,
    iterations,
    mtu: end.port.activeMtu,
    txDepth: end.options.depth,
    cqModeration: 1,
    maxInline: 0,
  };
  for (const [name, value] of Object.entries(job) as [keyof typeof job, number][]) {
    if (report[name] !== value) {
      throw new Error(`${subject.peer} ran with ${name} ${report[name]}, Verbseal with ${value}`);
    }
  }
}

function settings({ end, iterations, meaning }: Comparison): string {
  return `${meaning}; both: RC, path MTU ${end.port.activeMtu}, ${end.options.depth} outstanding, ` +
    `one request a call, each signaled, not inline, ${iterations} iterations; ` +
    `medians of ${runs} runs each, in turn`;
}
