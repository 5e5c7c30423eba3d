import { errorText, IntegrityError, VerbsealError } from "../errors.ts";
import { AuditLine, type ChainHead, headerOf } from "./audit_chain.ts";

/** Bytes of a line at most; the server writes far shorter ones. */
export const MAX_LINE_BYTES = 2 ** 20;

const LINE_FEED = 0x0a;

/** What files that are as they were written hold. */
export interface AuditReport {
  readonly chain: string;
  readonly lines: number;
  /** Sequence numbers and times of the first and the last line. */
  readonly first: { readonly sequence: number; readonly time: string };
  readonly last: { readonly sequence: number; readonly time: string };
  /** The first file goes on where an earlier one ended, which was not looked at. */
  readonly continued: boolean;
  /** Bytes after the last line feed, as a crash leaves: no line that the server had finished. */
  readonly tornBytes: number;
  /** How many lines were written after the head was; undefined where no head was given. */
  readonly linesAfterHead: number | undefined;
}

/** Where a line stands. */
interface Place {
  readonly file: string;
  /** From 1. */
  readonly line: number;
}

/**
 * Checks audit files line by line; memory does not grow with them.
 *
 * @param files parts of one chain, the oldest first
 * @param head the newest line known, from elsewhere: without it nobody sees that the end is cut off
 * @throws IntegrityError that names the first line that is not as it was written
 * @throws VerbsealError `audit_unreadable`, `audit_empty`
 */
export async function verifyAudit(
  files: readonly string[],
  key: Uint8Array,
  head?: ChainHead,
): Promise<AuditReport> {
  const verifier = new Verifier(key, head);
  let tornBytes = 0;
  for (const file of files) tornBytes += await verifyFile(file, verifier);
  return verifier.report(files, tornBytes);
}

/** @returns bytes of the torn line at its end */
async function verifyFile(file: string, verifier: Verifier): Promise<number> {
  let torn = 0;
  let number = 0;
  let held: { bytes: Uint8Array; place: Place } | undefined;
  for await (const { bytes, complete } of linesOf(file)) {
    const next = { bytes, place: { file, line: ++number } };
    if (held) verifier.take(held.bytes, held.place, bytes);
    if (!complete) torn = bytes.length;
    held = complete ? next : undefined;
  }
  if (held) verifier.take(held.bytes, held.place, undefined);
  return torn;
}

/** Lines without their line feeds. The last one may lack it, and is not complete then. */
async function* linesOf(
  path: string,
): AsyncGenerator<{ bytes: Uint8Array; complete: boolean }> {
  let rest = new Uint8Array(0);
  for await (const chunk of chunksOf(path)) {
    let start = 0;
    const bytes = rest.length === 0 ? chunk : joined(rest, chunk);
    for (
      let end = bytes.indexOf(LINE_FEED);
      end >= 0;
      start = end + 1, end = bytes.indexOf(LINE_FEED, start)
    ) {
      yield { bytes: bytes.subarray(start, end), complete: true };
    }
    rest = bytes.slice(start);
    if (rest.length > MAX_LINE_BYTES) break;
  }
  if (rest.length > 0) yield { bytes: rest, complete: rest.length > MAX_LINE_BYTES };
}

function joined(first: Uint8Array, second: Uint8Array): Uint8Array<ArrayBuffer> {
  const both = new Uint8Array(first.length + second.length);
  both.set(first);
  both.set(second, first.length);
  return both;
}

async function* chunksOf(path: string): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  try {
    using file = await Deno.open(path);
    for await (const chunk of file.readable) yield chunk;
  } catch (error) {
    if (error instanceof VerbsealError) throw error;
    throw new VerbsealError(
      "audit_unreadable",
      `${path} cannot be read: ${errorText(error)}`,
      "",
      { cause: error },
    );
  }
}

/** The chain so far. */
class Verifier {
  #chain: string | undefined;
  #continued = false;
  #first: AuditLine | undefined;
  #last: AuditLine | undefined;
  #lines = 0;
  /** Of the line before. */
  #mac: string | undefined;
  #sequence = -1;
  #headSeen = false;

  constructor(private readonly key: Uint8Array, private readonly head: ChainHead | undefined) {}

  /**
   * @param next bytes of the line after it in the file, to tell what happened to a bad one
   * @throws IntegrityError
   */
  take(bytes: Uint8Array, place: Place, next: Uint8Array | undefined): void {
    const line = AuditLine.parse(bytes);
    if (!line) throw this.#fault(place, bytes, next);
    if (place.line === 1) this.#begin(line, place);
    if (line.sequence !== this.#sequence + 1 || !line.follows(this.key, this.#mac)) {
      throw this.#fault(place, bytes, next);
    }
    this.#accept(line, place);
  }

  report(files: readonly string[], tornBytes: number): AuditReport {
    const file = files.at(-1)!;
    if (this.head && this.head.sequence > this.#sequence) {
      throw cutOff(file, this.#sequence, this.head);
    }
    if (!this.#first) throw new VerbsealError("audit_empty", `${file} has no audit line`);
    if (this.head && !this.#headSeen) throw headElsewhere(this.head, this.#first.sequence);
    return {
      chain: this.#chain!,
      lines: this.#lines,
      first: { sequence: this.#first.sequence, time: timeOf(this.#first) },
      last: { sequence: this.#sequence, time: timeOf(this.#last!) },
      continued: this.#continued,
      tornBytes,
      linesAfterHead: this.head && this.#sequence - this.head.sequence,
    };
  }

  /** The first line of each file says where its chain comes from. */
  #begin(line: AuditLine, place: Place): void {
    const header = headerOf(line);
    if (!header) {
      throw line.sequence === 0
        ? fault("audit_changed", place, "it is not as the server wrote it")
        : fault("audit_removed", place, "a file does not begin so: lines before it are missing");
    }
    if (this.head && header.chain !== this.head.chain) {
      throw fault("audit_other_chain", place, "its chain is another than the head's");
    }
    if (this.#first) return; // it has to follow, as any line
    this.#chain = header.chain;
    if (header.event === "continue") {
      this.#continued = true;
      this.#mac = header.previous;
      this.#sequence = line.sequence - 1;
    }
    if (line.follows(this.key, this.#mac)) return;
    throw fault("audit_key", place, "it was changed, or the key is not that of these lines");
  }

  #accept(line: AuditLine, place: Place): void {
    if (line.sequence === this.head?.sequence) {
      if (line.mac !== this.head.mac) {
        throw fault("audit_changed", place, "the head knows another line of that number");
      }
      this.#headSeen = true;
    }
    this.#first ??= line;
    this.#mac = line.mac;
    this.#sequence = line.sequence;
    this.#lines += 1;
    this.#last = line;
  }

  #fault(place: Place, bytes: Uint8Array, nextBytes: Uint8Array | undefined): IntegrityError {
    const line = AuditLine.parse(bytes);
    const next = nextBytes && AuditLine.parse(nextBytes);
    const wanted = this.#sequence + 1;
    const fits = (candidate: AuditLine | undefined) =>
      candidate?.sequence === wanted && candidate.follows(this.key, this.#mac);
    if (fits(next)) {
      return line && line.sequence > wanted
        ? fault("audit_swapped", place, `it stood after the next one: ${wanted} is missing here`)
        : fault("audit_inserted", place, "the server did not write it here");
    }
    if (!line || line.sequence === wanted) {
      return fault("audit_changed", place, "it is not as the server wrote it");
    }
    return line.sequence > wanted
      ? fault("audit_removed", place, missingText(wanted, line.sequence - 1))
      : fault("audit_inserted", place, `it bears number ${line.sequence} where ${wanted} belongs`);
  }
}

function missingText(first: number, last: number): string {
  return first === last
    ? `line number ${first} of the chain is missing before it`
    : `lines number ${first} to ${last} of the chain are missing before it`;
}

function timeOf({ text }: AuditLine): string {
  return String(JSON.parse(text).time);
}

function fault(code: string, { file, line }: Place, what: string): IntegrityError {
  return new IntegrityError(
    code,
    `${file}, line ${line}: ${what}`,
    "Trust only the lines before it; keep the file for whoever looks into it",
  );
}

function cutOff(file: string, last: number, head: ChainHead): IntegrityError {
  const upTo = last < 0 ? "has no line" : `ends with number ${last} of the chain`;
  return new IntegrityError(
    "audit_cut_off",
    `${file} was cut off: it ${upTo}, and the server wrote up to number ${head.sequence} at least`,
    "If there are later files, name them too, the oldest first",
  );
}

function headElsewhere({ sequence }: ChainHead, first: number): VerbsealError {
  return new VerbsealError(
    "audit_head",
    `the head is number ${sequence} of the chain, before ${first}, with which these files begin`,
    "Name the earlier files too, the oldest first, or a later head",
  );
}
