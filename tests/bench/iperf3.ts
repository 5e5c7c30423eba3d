/** Runs iperf3 over loopback and reads what it reports. */
import { LOOPBACK } from "./loopback.ts";
import { MEGABYTE } from "./figure.ts";
import { ProgramError, runServerAndClient, unusedPort } from "./server_and_client.ts";

/**
 * MB/s of one TCP stream over loopback, as the receiver counts it.
 *
 * @param size bytes of a write
 * @param total bytes of the stream
 * @throws ProgramError if it fails or reports no rate
 */
export async function runIperf3(size: number, total: number): Promise<number> {
  const port = unusedPort();
  const { stdout } = await runServerAndClient({
    program: "iperf3",
    server: ["-s", "-1", "-B", LOOPBACK, "-p", String(port)],
    client: [
      ...["-c", LOOPBACK, "-p", String(port), "-J"],
      ...["-l", String(size), "-n", String(total)],
    ],
    listens: { protocol: "tcp", port },
  });
  return parseIperf3(stdout);
}

/**
 * Reads the report of the client's `-J`; gives MB/s.
 *
 * @throws ProgramError if there is no rate in it
 */
export function parseIperf3(report: string): number {
  const rate = JSON.parse(report).end?.sum_received?.bits_per_second;
  if (typeof rate === "number" && rate > 0) return rate / 8 / MEGABYTE;
  throw new ProgramError(`no rate in iperf3's report:\n${report}`);
}
