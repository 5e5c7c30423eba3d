/** Runs perftest's programs and reads what they print. */
import { ProgramError, runServerAndClient } from "./server_and_client.ts";

/** perftest's default TCP port for its own exchange. */
const PORT = 18515;

/** Runs until one in which perftest knew how fast its clock is. */
const ATTEMPTS = 5;

/** What perftest printed: the settings it ran with, and the one row of its table. */
export interface PerftestReport {
  /** Bytes. */
  mtu: number;
  /** Work requests outstanding at most. */
  txDepth: number;
  /** One completion for so many work requests; 1 for the latency programs, which do not say. */
  cqModeration: number;
  /** Bytes up to which data goes inline. */
  maxInline: number;
  /** Bytes of a message. */
  size: number;
  iterations: number;
  /** The row by the names of the columns, for example `BW average[MB/sec]` or `t_typical[usec]`. */
  values: ReadonlyMap<string, number>;
}

/** perftest printed something else than a report. */
export class PerftestError extends ProgramError {
  override readonly name = "PerftestError";
}

/**
 * Reads what the client printed.
 *
 * @throws PerftestError if a setting, the table or a number is missing
 */
export function parsePerftest(output: string): PerftestReport {
  const lines = output.split("\n");
  const heading = lines.findIndex((line) => /^\s*#bytes\s/.test(line));
  // A column's name may have spaces in it and ends with its unit in brackets, or begins with #.
  const names = lines[heading]?.match(/#\w+|[^\s#][^[]*\[[^\]]+\]/g) ?? [];
  const row = lines.slice(heading + 1).find((line) => /^\s*\d/.test(line)) ?? "";
  const numbers = row.trim().split(/\s+/).map(Number);
  if (names.length < 3 || numbers.length !== names.length || !numbers.every(Number.isFinite)) {
    throw new PerftestError(`no table in perftest's output:\n${output}`);
  }
  const values = new Map(names.map((name, index) => [name, numbers[index]!]));
  return {
    mtu: setting(output, "Mtu"),
    txDepth: setting(output, "TX depth"),
    cqModeration: output.includes("CQ Moderation") ? setting(output, "CQ Moderation") : 1,
    maxInline: setting(output, "Max inline data"),
    size: values.get("#bytes")!,
    iterations: values.get("#iterations")!,
    values,
  };
}

function setting(output: string, name: string): number {
  const match = new RegExp(`^\\s*${name}\\s*:\\s*(\\d+)`, "m").exec(output);
  if (!match) throw new PerftestError(`no "${name}" in perftest's output:\n${output}`);
  return Number(match[1]);
}

/** The value of one column. @throws PerftestError if there is none such */
export function column(report: PerftestReport, name: string): number {
  const value = report.values.get(name);
  if (value === undefined) {
    throw new PerftestError(`perftest has ${[...report.values.keys()].join(", ")}, not ${name}`);
  }
  return value;
}

/**
 * Runs both ends of a perftest program on this machine and returns the client's report.
 *
 * @param program for example ib_write_bw
 * @param address where the client reaches the server
 * @throws ProgramError with what was printed, if an end fails
 */
export async function runPerftest(
  program: string,
  args: readonly string[],
  address: string,
): Promise<PerftestReport> {
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    const { stdout, stderr } = await runServerAndClient({
      program,
      server: args,
      client: [...args, address],
      listens: { protocol: "tcp", port: PORT },
    });
    if (!clockUnknown(stderr)) return parsePerftest(stdout);
    console.error(`${program} could not calibrate its clock, as the machine is busy: once more`);
  }
  throw new PerftestError(`${program} could not calibrate its clock in ${ATTEMPTS} attempts`);
}

/** Whether perftest has no clock rate: it then reports 0, inf or nan. */
export function clockUnknown(stderr: string): boolean {
  return stderr.includes("Correlation coefficient");
}
