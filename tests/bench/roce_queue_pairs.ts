/** How the embedded provider fares with many queue pairs, two processes over loopback. */
import type { Figure } from "./figure.ts";
import { measureInTurn } from "./in_turn.ts";
import { EMBEDDED } from "./loopback.ts";
import { Peer } from "./peer.ts";
import { type EndOptions, WriteEnd } from "./write_end.ts";
import { bandwidthOf, latencyOf } from "./write_runs.ts";

const runs = 5;

const counts = [1, 8, 64, 512] as const;

const place = `two processes over loopback; medians of ${runs} runs`;

/** Bandwidth of streams of WRITEs on all queue pairs at once. */
export async function* queuePairBandwidth(): AsyncGenerator<Figure> {
  const options = { device: EMBEDDED, size: 65536, depth: 16 };
  const iterations = 32_768;
  for (const queuePairs of counts) {
    using end = new WriteEnd({ ...options, queuePairs });
    await using _peer = await Peer.connect(end);
    end.stream(iterations / 4);
    yield await measureInTurn({
      subject: {
        bench: "roce.qps.bw",
        size: options.size,
        queuePairs,
        peer: null,
        unit: "MB/s",
        settings:
          `MB of 2^20 bytes, all queue pairs together; ${options.depth} WRITEs outstanding ` +
          `on each, ${iterations} in all; ${place}`,
      },
      runs,
      ours: () => bandwidthOf(end, iterations),
    });
  }
}

/** Half the round trip of a WRITE, each round on the next of the queue pairs. */
export async function* queuePairLatency(): AsyncGenerator<Figure> {
  const options = { device: EMBEDDED, size: 64, depth: 1 };
  const rounds = 4000;
  for (const queuePairs of counts) {
    using end = new WriteEnd({ ...options, queuePairs });
    await using peer = await Peer.connect(end);
    await latencyOf(end, peer, rounds);
    yield await measureInTurn({
      subject: {
        bench: "roce.qps.lat",
        size: options.size,
        queuePairs,
        peer: null,
        unit: "us",
        settings:
          `half the round trip, each round on the next queue pair, the median of ${rounds} ` +
          `rounds; ${place}`,
      },
      runs,
      ours: () => latencyOf(end, peer, rounds),
    });
  }
}

/** Bytes that a connected queue pair costs its process. */
export async function* queuePairMemory(): AsyncGenerator<Figure> {
  // A session's queue pair has queues as deep.
  const options = { device: EMBEDDED, size: 64, depth: 32, maxReceive: 32 };
  const queuePairs = 1000;
  yield await measureInTurn({
    subject: {
      bench: "roce.qp.memory",
      size: options.size,
      queuePairs,
      peer: null,
      unit: "bytes",
      settings: `resident memory of a process with ${queuePairs + 1} connected queue pairs that ` +
        `have all been written to, less that of a process with one, by ${queuePairs}; send and ` +
        `receive queues of ${options.depth}, with their share of the completion queue; median of ` +
        `${runs} runs`,
    },
    runs,
    ours: async () => {
      const one = await residentBytes({ ...options, queuePairs: 1 });
      const many = await residentBytes({ ...options, queuePairs: queuePairs + 1 });
      return (many - one) / queuePairs;
    },
  });
}

/** What the process of one end occupies. */
async function residentBytes(options: Required<EndOptions>): Promise<number> {
  using end = new WriteEnd(options);
  await using peer = await Peer.connect(end);
  end.stream(options.queuePairs);
  return await peer.memory();
}
