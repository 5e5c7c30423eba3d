/** RDMA WRITE by the embedded provider, two processes over loopback, beside plain sockets there. */
import type { Figure } from "./figure.ts";
import { measureInTurn } from "./in_turn.ts";
import { runIperf3 } from "./iperf3.ts";
import { EMBEDDED } from "./loopback.ts";
import { Peer } from "./peer.ts";
import { runSockperf } from "./sockperf.ts";
import { WriteEnd } from "./write_end.ts";
import { bandwidthOf, latencyOf } from "./write_runs.ts";

/** Runs of each side. */
const runs = 5;

/** Bytes that each run of a stream carries. */
const total = 4 * 2 ** 30;

/** Bandwidth of a stream of WRITEs beside that of a TCP stream. */
export async function* roceWriteBandwidth(): AsyncGenerator<Figure> {
  for (const size of [65536, 1_048_576]) yield await bandwidth(size);
}

async function bandwidth(size: number): Promise<Figure> {
  const depth = 128;
  const iterations = total / size;
  using end = new WriteEnd({ device: EMBEDDED, size, depth });
  await using _peer = await Peer.connect(end);
  // The compiler has seen all it will run.
  end.stream(iterations / 4);
  return await measureInTurn({
    subject: {
      bench: "roce.write.bw",
      size,
      peer: "iperf3",
      unit: "MB/s",
      settings: `MB of 2^20 bytes; both: two processes over loopback, ${total / 2 ** 30} GiB in ` +
        `messages of the size; WRITEs from the first post to the last completion, RC, path MTU ` +
        `${end.port.activeMtu}, ${depth} outstanding, each signaled; iperf3: one TCP stream; ` +
        `medians of ${runs} runs each, in turn`,
    },
    runs,
    ours: () => bandwidthOf(end, iterations),
    theirs: () => runIperf3(size, total),
  });
}

/**
 * Half the round trip of WRITEs of 64 bytes beside that of UDP datagrams: what the provider stands on,
 * from a program in C, without reliability, integrity or placement.
 */
export async function* roceWriteLatency(): AsyncGenerator<Figure> {
  const size = 64;
  const rounds = 4000;
  using end = new WriteEnd({ device: EMBEDDED, size, depth: 1 });
  await using peer = await Peer.connect(end);
  await latencyOf(end, peer, rounds);
  yield await measureInTurn({
    subject: {
      bench: "roce.write.lat",
      size,
      peer: "sockperf",
      unit: "us",
      settings:
        "half the round trip, the median of a run; both: two processes over loopback that " +
        `spin; WRITE: RC, each acknowledged, ${rounds} rounds; sockperf: ping-pong of plain UDP ` +
        `for a second; medians of ${runs} runs each, in turn`,
    },
    runs,
    ours: () => latencyOf(end, peer, rounds),
    theirs: () => runSockperf(size, 1),
  });
}
