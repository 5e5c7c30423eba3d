/** RDMA WRITE by the embedded provider beside the same over the kernel's rdma_rxe, Verbseal on both. */
import { rxe } from "../provider.ts";
import type { Figure } from "./figure.ts";
import { measureInTurn } from "./in_turn.ts";
import { Peer } from "./peer.ts";
import { WriteEnd } from "./write_end.ts";
import { bandwidthOf } from "./write_runs.ts";

/** Runs of each side. */
const runs = 5;

/** ib_write_bw's default. */
const depth = 128;

/** Bandwidth of a stream of WRITEs, both providers on the same address. */
export async function* roceBesideRxe(): AsyncGenerator<Figure> {
  yield await bandwidth(65536, 1200);
  yield await bandwidth(1_048_576, 128);
}

async function bandwidth(size: number, iterations: number): Promise<Figure> {
  using embedded = new WriteEnd({ device: `roce:${rxe.address}`, size, depth });
  using kernel = new WriteEnd({ device: rxe.device, size, depth });
  await using _embeddedPeer = await Peer.connect(embedded);
  await using _kernelPeer = await Peer.connect(kernel);
  requireSamePathMtu(embedded, kernel);
  embedded.stream(iterations);
  kernel.stream(iterations);
  return await measureInTurn({
    subject: {
      bench: "roce.rxe.bw",
      size,
      peer: "rdma_rxe",
      unit: "MB/s",
      settings:
        "MB of 2^20 bytes, from the first post to the last completion; both: Verbseal, two " +
        `processes on one address of the guest, RC, path MTU ${kernel.port.activeMtu}, ${depth} ` +
        `outstanding, each signaled, ${iterations} iterations; medians of ${runs} runs each, in turn`,
    },
    runs,
    ours: () => bandwidthOf(embedded, iterations),
    theirs: () => bandwidthOf(kernel, iterations),
  });
}

function requireSamePathMtu(embedded: WriteEnd, kernel: WriteEnd): void {
  const mtus = [embedded, kernel].map(({ port }) => port.activeMtu);
  if (mtus[0] !== mtus[1]) throw new Error(`the path MTUs differ: ${mtus.join(" and ")}`);
}
