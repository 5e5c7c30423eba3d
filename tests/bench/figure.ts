/** What a bench found out, and how it is shown. */
import type { Backend } from "../../lib/tls/backend.ts";

/**
 * What carries a file's bytes: TLS that the kernel seals, TLS in user space, RDMA sealed or in the
 * clear; of the latter, how each chunk's buffer is opened to the peer.
 */
export type Carrier =
  | "ktls"
  | "tls"
  | "rdma, sealed"
  | "rdma, unsealed"
  | "rdma, by windows"
  | "rdma, by registrations";

/** One number of Verbseal's, beside the same number of an established program's where there is one. */
export interface Figure {
  /** Name of the bench. */
  bench: string;
  /** Bytes of a message. */
  size: number;
  /** Queue pairs at work, where it is they that matter. */
  queuePairs?: number;
  /** Who speaks TLS, where it is TLS that matters. */
  backend?: Backend;
  /** What carries the data, where it is that which matters. */
  transport?: Carrier;
  /** Sessions at once, where it is they that matter. */
  sessions?: number;
  /** Median of Verbseal's runs. */
  verbseal: number;
  /** The program compared with; null where there is none. */
  peer: string | null;
  /** Median of its runs. */
  peerValue: number | null;
  /**
   * MB/s (of 2^20 bytes, as perftest counts), us, s, bytes, handshakes a second, or CPU time for
   * 2^30 bytes.
   */
  unit: "MB/s" | "us" | "s" | "bytes" | "1/s" | "s/GiB";
  /** verbseal ÷ peerValue. */
  ratio: number | null;
  /** What the ratio has to be at least, where a smaller one is a failure. */
  leastRatio?: number;
  /** What both ran with, for the reader; not part of the JSON line. */
  settings: string;
}

/** A figure's subject, without its numbers. */
export type Subject = Omit<Figure, "verbseal" | "peerValue" | "ratio">;

/** Bytes of the unit MB. */
export const MEGABYTE = 2 ** 20;

/**
 * The middle value; the mean of the two middle ones of an even number.
 *
 * @throws RangeError if there are no values
 */
export function median(values: ArrayLike<number>): number {
  if (values.length === 0) throw new RangeError("no values, no median");
  const sorted = Float64Array.from(values).sort();
  const middle = sorted.length >> 1;
  const upper = sorted[middle]!;
  return sorted.length % 2 === 1 ? upper : (sorted[middle - 1]! + upper) / 2;
}

/**
 * Sums up runs made in turn: the medians of both, and their ratio.
 *
 * @param theirs undefined where there is no peer
 */
export function summarize(subject: Subject, ours: number[], theirs?: number[]): Figure {
  const verbseal = median(ours);
  const peerValue = theirs ? median(theirs) : null;
  return {
    ...subject,
    verbseal: rounded(verbseal),
    peerValue: peerValue === null ? null : rounded(peerValue),
    ratio: peerValue === null ? null : rounded(verbseal / peerValue),
  };
}

/** To three decimals: what is behind them is noise. */
function rounded(value: number): number {
  return Math.round(value * 1000) / 1000;
}

/** A figure as one line of JSON. */
export function jsonLine(figure: Figure): string {
  const { bench, size, queuePairs, backend, transport, sessions } = figure;
  const { verbseal, peer, peerValue, unit, ratio, leastRatio } = figure;
  const subject = { bench, size, queuePairs, backend, transport, sessions };
  return JSON.stringify({ ...subject, verbseal, peer, peerValue, unit, ratio, leastRatio });
}

/** Whether its ratio is what it has to be, or may be anything. */
export function passes({ ratio, leastRatio }: Figure): boolean {
  return leastRatio === undefined || (ratio !== null && ratio >= leastRatio);
}

/** Figures as a table, under the settings they were measured with. */
export function table(figures: readonly Figure[]): string {
  const settings = new Set(figures.map((figure) => `${figure.bench}: ${figure.settings}`));
  const rows = [
    ["bench", "bytes", "QPs", "Verbseal", "peer", "", "unit", "ratio"],
    ...figures.map((figure) => [
      [figure.bench, figure.backend, figure.transport].filter(Boolean).join(" "),
      String(figure.size),
      String(figure.queuePairs ?? 1),
      figure.verbseal.toFixed(2),
      figure.peerValue?.toFixed(2) ?? "",
      figure.peer ?? "",
      figure.unit,
      ratioText(figure),
    ]),
  ];
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  const lines = rows.map((row) =>
    row.map((cell, column) => align(cell, column, widths[column]!)).join("  ").trimEnd()
  );
  return [...settings, "", ...lines].join("\n");
}

function ratioText(figure: Figure): string {
  const { ratio, leastRatio } = figure;
  const text = ratio?.toFixed(3) ?? "";
  if (leastRatio === undefined) return text;
  return passes(figure) ? `${text}, at least ${leastRatio}` : `${text} IS BELOW ${leastRatio}`;
}

/** Numbers stand to the right, words to the left. */
function align(cell: string, column: number, width: number): string {
  const isNumber = [1, 2, 3, 4, 7].includes(column);
  return isNumber ? cell.padStart(width) : cell.padEnd(width);
}
