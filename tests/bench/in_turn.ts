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

/** Runs both sides in turn: what disturbs the machine meanwhile disturbs both. */
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
  return summarize(subject, ours, measurement.theirs ? theirs : undefined);
}

function title({ bench, size, queuePairs }: Subject): string {
  const pairs = queuePairs === undefined ? "" : `, ${queuePairs} queue pairs`;
  return `${bench}, ${size} bytes${pairs}`;
}
