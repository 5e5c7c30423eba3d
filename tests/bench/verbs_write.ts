/** RDMA WRITE over libibverbs, beside ib_write_bw and ib_write_lat. */
import { type Figure, median, type Subject, summarize } from "./figure.ts";
import { Peer } from "./peer.ts";
import { column, type PerftestReport, runPerftest } from "./perftest.ts";
import { WriteEnd } from "./write_end.ts";

/** Runs of each side. */
const pairs = 7;

/** perftest's megabyte. */
const megabyte = 2 ** 20;

/** Bandwidth of a stream of WRITEs, for messages of 64 KiB and 1 MiB. */
export async function* writeBandwidth(): AsyncGenerator<Figure> {
  yield await bandwidth(65536, 1200);
  yield await bandwidth(1_048_576, 128);
}

async function bandwidth(size: number, iterations: number): Promise<Figure> {
  // ib_write_bw's default.
  const depth = 128;
  using end = new WriteEnd(size, depth);
  await using _peer = await Peer.connect(end);
  end.stream(iterations);
  return await compare({
    subject: { bench: "verbs.write.bw", size, peer: "ib_write_bw", unit: "MB/s" },
    end,
    iterations,
    meaning: "MB of 2^20 bytes, from the first post to the last completion",
    ours: () => Promise.resolve(size * iterations / megabyte / (end.stream(iterations) / 1000)),
    options: ["-t", String(depth)],
    column: "BW average[MB/sec]",
  });
}

/** Half the round trip of WRITEs of 64 bytes. */
export async function* writeLatency(): AsyncGenerator<Figure> {
  const size = 64;
  const iterations = 4000;
  using end = new WriteEnd(size, 1);
  await using peer = await Peer.connect(end);
  const posts = new Float64Array(iterations);
  const halfRoundTrip = async (): Promise<number> => {
    await peer.lead(iterations);
    end.pingPong(iterations, false, posts);
    return 1000 * median(posts.subarray(1).map((time, index) => time - posts[index]!)) / 2;
  };
  await halfRoundTrip();
  yield await compare({
    subject: { bench: "verbs.write.lat", size, peer: "ib_write_lat", unit: "us" },
    end,
    iterations,
    meaning: "half the round trip, the median of a run",
    ours: halfRoundTrip,
    options: [],
    column: "t_typical[usec]",
  });
}

/** Verbseal and perftest, about to do the same. */
interface Comparison {
  subject: Omit<Subject, "settings">;
  end: WriteEnd;
  iterations: number;
  /** What the figure is, in words. */
  meaning: string;
  ours(): Promise<number>;
  /** perftest's options beside those that all have. */
  options: readonly string[];
  /** Where its figure stands. */
  column: string;
}

/** Runs both sides in turn. */
async function compare(comparison: Comparison): Promise<Figure> {
  const { subject, end, iterations } = comparison;
  const { bench, size, peer, unit } = subject;
  const args = [
    ...["-F", "-d", end.device, "-x", String(end.gid.index), "-m", String(end.port.activeMtu)],
    ...["-s", String(size), "-n", String(iterations)],
    ...comparison.options,
  ];
  const ours: number[] = [];
  const theirs: number[] = [];
  for (let pair = 1; pair <= pairs; pair++) {
    const our = await comparison.ours();
    const report = await runPerftest(peer, args, end.address);
    requireSameJob(comparison, report);
    const their = column(report, comparison.column);
    ours.push(our);
    theirs.push(their);
    const values = `Verbseal ${our.toFixed(2)} ${unit}, ${peer} ${their.toFixed(2)} ${unit}`;
    console.error(`${bench}, ${size} bytes, ${pair} of ${pairs}: ${values}`);
  }
  return summarize({ ...subject, settings: settings(comparison) }, ours, theirs);
}

/** @throws Error if perftest, by itself, chose something else than Verbseal does */
function requireSameJob({ subject, end, iterations }: Comparison, report: PerftestReport): void {
  const job = {
    size: subject.size,
    iterations,
    mtu: end.port.activeMtu,
    txDepth: end.depth,
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
  return `${meaning}; both: RC, path MTU ${end.port.activeMtu}, ${end.depth} outstanding, ` +
    `one request a call, each signaled, not inline, ${iterations} iterations; ` +
    `medians of ${pairs} runs each, in turn`;
}
