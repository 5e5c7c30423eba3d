/** Runs sockperf over loopback and reads what it prints. */
import { LOOPBACK } from "./loopback.ts";
import { ProgramError, runServerAndClient, unusedPort } from "./server_and_client.ts";

/**
 * Microseconds of half the round trip of a UDP datagram over loopback, the median of a run. Both ends
 * spin on their sockets, as both ends of the WRITE ping-pong do.
 *
 * @param size bytes of a datagram's payload, at least 14
 * @param seconds that the run takes
 * @throws ProgramError if it fails or prints no median
 */
export async function runSockperf(size: number, seconds: number): Promise<number> {
  const port = unusedPort();
  const place = ["-i", LOOPBACK, "-p", String(port), "--nonblocked"];
  const { stdout } = await runServerAndClient({
    program: "sockperf",
    server: ["server", ...place],
    client: ["ping-pong", ...place, "-m", String(size), "-t", String(seconds)],
    listens: { protocol: "udp", port },
    endedBy: "SIGINT",
  });
  return parseSockperf(stdout);
}

/**
 * Reads what the client prints; gives microseconds: sockperf halves the round trip itself.
 *
 * @throws ProgramError if there is no median in it
 */
export function parseSockperf(output: string): number {
  const median = /percentile 50\.000 =\s*([\d.]+)/.exec(output)?.[1];
  if (median !== undefined) return Number(median);
  throw new ProgramError(`no median in sockperf's output:\n${output}`);
}
