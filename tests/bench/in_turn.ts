import { type Figure, type Subject, summarize } from "./figure.ts";

/** What is measured, and how each side is. */
export interface Measurement {
  readonly subject: Subject;
  /** Runs of each side. */
  readonly runs: number;
  /** One run of Verbseal's, in the subject's unit. */
  ours(): number | Promise<number>;
  /** One run of the peer's; left out where there is none. */
  theirs?(): number | Promise<number>;
}

/** Runs of one side that differ by more than this factor were disturbed. */
const TRUSTED_SPREAD = 2;

/**
 * Runs both sides in turn: what disturbs the machine meanwhile may disturb both. Says on standard
 * error when it did: such a figure is worth nothing, whichever side it flatters.
 */
export async function measureInTurn(measurement: Measurement): Promise<Figure> {
  const { subject, runs } = measurement;
  const ours: number[] = [];
  const theirs: number[] = [];
  for (let run = 1; run <= runs; run++) {
    const our = await measurement.ours();
    ours.push(our);
    let values = `Verbseal ${our.toFixed(2)} ${subject.unit}`;
    if (measurement.theirs) {
      const their = await measurement.theirs();
      theirs.push(their);
      values += `, ${subject.peer} ${their.toFixed(2)} ${subject.unit}`;
    }
    console.error(`${title(subject)}, ${run} of ${runs}: ${values}`);
  }
  warnOfDisturbance(subject, "Verbseal", ours);
  warnOfDisturbance(subject, subject.peer ?? "", theirs);
  return summarize(subject, ours, measurement.theirs ? theirs : undefined);
}

/** Says on standard error when runs of one side were disturbed. */
export function warnOfDisturbance(subject: Subject, who: string, values: readonly number[]): void {
  if (Math.max(...values) <= TRUSTED_SPREAD * Math.min(...values)) return;
  console.error(`${title(subject)}: the runs of ${who} differ too much; leave the machine alone`);
}

function title({ bench, size, queuePairs }: Subject): string {
  const pairs = queuePairs === undefined ? "" : `, ${queuePairs} queue pairs`;
  return `${bench}, ${size} bytes${pairs}`;
}
