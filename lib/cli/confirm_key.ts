import { writeText } from "../telemetry/streams.ts";
import { parsePin } from "../tls/pin.ts";

/**
 * Asks on the terminal whether a key is the right one, until the answer is `yes`, `no` or the key.
 *
 * @param question what to decide, one or more lines
 * @param pin of the key
 * @param signal gives up
 * @returns false also when the input ends
 */
export async function confirmKey(
  question: string,
  pin: string,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  writeText(Deno.stderr, `${question}Is it the right key? (yes/no/key) `);
  for (;;) {
    const answer = await readLine(signal);
    if (answer === undefined || answer === "no") return false;
    if (answer === "yes" || isPin(answer, pin)) return true;
    writeText(Deno.stderr, "Please type yes, no, or the key as you have it (sha256:…): ");
  }
}

/** Bytes that a terminal takes for a line at most (termios(3)). */
const longestLine = 4096;

/** A line; no more, as what follows may be the input of the command. A terminal gives one a read. */
async function readLine(signal: AbortSignal | undefined): Promise<string | undefined> {
  const bytes = new Uint8Array(longestLine);
  const reading = Deno.stdin.read(bytes);
  const count = await (signal ? Promise.race([reading, aborted(signal)]) : reading);
  return count === null ? undefined : new TextDecoder().decode(bytes.subarray(0, count)).trim();
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

function isPin(text: string, pin: string): boolean {
  try {
    return parsePin(text) === pin;
  } catch {
    return false;
  }
}
