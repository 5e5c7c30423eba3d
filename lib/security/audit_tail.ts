import { IntegrityError, VerbsealError } from "../errors.ts";
import { exists } from "../exists.ts";
import { AuditLine, type ChainHead, headerOf } from "./audit_chain.ts";
import { type AuditPaths, readAuditHead } from "./audit_key_and_head.ts";
import { MAX_LINE_BYTES } from "./audit_verify.ts";

/** Where an existing file ends, as its head has it. */
export interface AuditTail {
  readonly last: ChainHead;
  /** Bytes of a line that was not finished, after the last one. */
  readonly tornBytes: number;
}

/**
 * Compares the end of a file with its head: the line that the head knows must be there, and all
 * after it, which a server that was killed wrote last, must follow. A file without lines is new in
 * the place of one that was moved away.
 *
 * @returns undefined where there is neither: a chain is to begin
 * @throws IntegrityError `audit_head` when the end is not so
 * @throws VerbsealError `audit_head_missing`
 */
export async function auditTail(
  paths: AuditPaths,
  key: Uint8Array,
): Promise<AuditTail | undefined> {
  if (!await exists(paths.head)) {
    const { lines, tornBytes } = await endOf(paths.file, 0);
    if (lines.length > 0 || tornBytes > 0) throw headMissing(paths);
    return undefined;
  }
  const head = await readAuditHead(paths.head);
  const { lines, tornBytes } = await endOf(paths.file, head.sequence - 1);
  return { last: lines.length === 0 ? head : lastOf(lines, key, head, paths), tornBytes };
}

function lastOf(
  lines: readonly (AuditLine | undefined)[],
  key: Uint8Array,
  head: ChainHead,
  paths: AuditPaths,
): ChainHead {
  const known = lines.findIndex((line) => line?.sequence === head.sequence);
  let last = known < 0 ? beforeFile(lines[0], head) : headFound(lines, known, key, head);
  if (!last) throw doesNotFit(paths);
  for (const line of lines.slice(known + 1)) {
    if (line?.sequence !== last.sequence + 1 || !line.follows(key, last.mac)) {
      throw doesNotFit(paths);
    }
    last = { chain: head.chain, sequence: line.sequence, mac: line.mac };
  }
  return last;
}

/** Its bytes count as well as its MAC, which whoever changes them may leave as it is. */
function headFound(
  lines: readonly (AuditLine | undefined)[],
  at: number,
  key: Uint8Array,
  head: ChainHead,
): ChainHead | undefined {
  const line = lines[at]!;
  const previous = at > 0 ? lines[at - 1]?.mac : previousOf(line);
  return line.mac === head.mac && line.follows(key, previous) ? head : undefined;
}

/** The MAC that the first line of a file follows; undefined where a chain begins. */
function previousOf(first: AuditLine): string | undefined {
  const header = headerOf(first);
  return header?.event === "continue" ? header.previous : undefined;
}

/** A file whose first line follows the head: the server was killed as it began the file. */
function beforeFile(first: AuditLine | undefined, head: ChainHead): ChainHead | undefined {
  if (!first) return undefined;
  const header = headerOf(first);
  return header?.event === "continue" && header.previous === head.mac ? head : undefined;
}

/** The last lines of a file: from that with a sequence number, or from the first. */
async function endOf(
  path: string,
  sequence: number,
): Promise<{ lines: (AuditLine | undefined)[]; tornBytes: number }> {
  using file = await Deno.open(path);
  const { size } = await file.stat();
  for (let length = 65536;; length *= 4) {
    const start = Math.max(0, size - length);
    const bytes = await readRange(file, start, size - start);
    const end = bytes.lastIndexOf(0x0a) + 1;
    const lines = splitLines(bytes.subarray(0, end)).slice(start === 0 ? 0 : 1)
      .map((line) => AuditLine.parse(line));
    const reaches = lines.some((line) => line !== undefined && line.sequence <= sequence);
    if (start === 0 || reaches || length > 64 * MAX_LINE_BYTES) {
      return { lines, tornBytes: bytes.length - end };
    }
  }
}

async function readRange(file: Deno.FsFile, start: number, length: number): Promise<Uint8Array> {
  await file.seek(start, Deno.SeekMode.Start);
  const bytes = new Uint8Array(length);
  let filled = 0;
  while (filled < length) {
    const count = await file.read(bytes.subarray(filled));
    if (count === null) break;
    filled += count;
  }
  return bytes.subarray(0, filled);
}

/** Without their line feeds; the last one has one. */
function splitLines(bytes: Uint8Array): Uint8Array[] {
  const lines: Uint8Array[] = [];
  for (let start = 0; start < bytes.length;) {
    const end = bytes.indexOf(0x0a, start);
    lines.push(bytes.subarray(start, end));
    start = end + 1;
  }
  return lines;
}

function headMissing({ file, head }: AuditPaths): VerbsealError {
  return new VerbsealError(
    "audit_head_missing",
    `there is an audit log ${file}, and its head ${head} is missing`,
    `Put the head back; or move ${file} away, and a new chain begins`,
  );
}

function doesNotFit({ file, head }: AuditPaths): IntegrityError {
  return new IntegrityError(
    "audit_head",
    `the end of the audit log ${file} is not what its head ${head} says: it was changed or cut off`,
    `Look into it with verbseal audit verify ${file}; a new chain begins once both are moved away`,
  );
}
