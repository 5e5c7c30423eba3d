/** Single runs of WRITE benchmarks, of either provider. */
import { median, MEGABYTE } from "./figure.ts";
import type { Peer } from "./peer.ts";
import type { WriteEnd } from "./write_end.ts";

/** MB/s of a stream of WRITEs, from the first post to the last completion. */
export function bandwidthOf(end: WriteEnd, iterations: number): number {
  return end.options.size * iterations / MEGABYTE / (end.stream(iterations) / 1000);
}

/** Microseconds of half the round trip of a WRITE: the median of all rounds. */
export async function latencyOf(end: WriteEnd, peer: Peer, rounds: number): Promise<number> {
  const posts = new Float64Array(rounds);
  await peer.lead(rounds);
  end.pingPong(rounds, false, posts);
  return 1000 * median(posts.subarray(1).map((time, index) => time - posts[index]!)) / 2;
}
