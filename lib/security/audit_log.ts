import { Buffer } from "node:buffer";
import { delay } from "@std/async/delay";
import { errorText, VerbsealError } from "../errors.ts";
import { jsonText, logger } from "../telemetry/log.ts";
import { type Audit, type AuditEntry, auditRefusal } from "./audit.ts";
import { AuditChain } from "./audit_chain.ts";
import { AuditFile } from "./audit_file.ts";
import { type AuditPaths, ensureAuditKey, writeAuditHead } from "./audit_key_and_head.ts";
import { AuditRepeats } from "./audit_repeats.ts";
import { type AuditTail, auditTail } from "./audit_tail.ts";

const log = logger("audit");

/** How often a file that could not be written is tried again, in milliseconds. */
const RETRY_MILLISECONDS = 1000;

/** How often the log tells the head, where it has moved, in milliseconds. */
const HEAD_LOG_MILLISECONDS = 600_000;

/** Lines that are kept while they cannot be written; those beyond are counted and lost. */
const MAX_WAITING = 10_000;

interface Waiting {
  /** Members of the line's object, as text. */
  readonly members: string;
  readonly durable: PromiseWithResolvers<void>;
}

/** Lines that have their place in the chain. */
interface Batch {
  readonly bytes: Uint8Array;
  readonly waiting: readonly Waiting[];
  /** Bytes that the file has. */
  written: number;
}

/**
 * The audit log of a server: one JSON line for each event, chained (audit_chain.ts), appended to a
 * file that nobody but its user may read.
 *
 * **When is a line on disk?** Lines that wait are written together and synced (fdatasync); then their
 * promises resolve, and the head is replaced. The next lines gather meanwhile: however many sessions
 * wait there is one sync at a time, on another thread, and the event loop never waits. Who is let in
 * is on disk before WELCOME is sent, and what a service did before its REPLY: no client has one that
 * the log does not know. Messages have no REPLY, and endings, which count them, are not waited for,
 * nor are refusals.
 *
 * **What if it cannot be written?** Nobody new is let in, calls of services are answered with an
 * error, and writing is tried again every second; lines wait in memory meanwhile. After a sync that
 * failed nobody can say what is on disk, so that only a new start helps, which compares file and head.
 *
 * **Can it be flooded?** By those who are let in, as often as they may come; of others it takes no
 * more than some lines for each reason (audit_repeats.ts).
 *
 * **Rotation**: when the file is no longer under its name, the chain goes on in a new one there.
 */
export class AuditLog implements Audit, AsyncDisposable {
  #file: AuditFile;
  readonly #waiting: Waiting[] = [];
  #batch: Batch | undefined;
  #headDue = false;
  #rotationDue = false;
  #writing: Promise<void> | undefined;
  #failure: unknown;
  #lost = 0;
  readonly #repeats = new AuditRepeats((entry) => this.#queue(entry));
  #loggedSequence = -1;
  readonly #ending = new AbortController();
  readonly #headTimer: number;

  private constructor(
    private readonly paths: AuditPaths,
    private readonly chain: AuditChain,
    file: AuditFile,
    private readonly openFile: (path: string) => Promise<AuditFile>,
  ) {
    this.#file = file;
    this.#headTimer = setInterval(() => this.#logHead(), HEAD_LOG_MILLISECONDS);
  }

  /**
   * Begins a log, or goes on with one whose end is as its head says.
   *
   * @throws IntegrityError `audit_head` when it is not
   * @throws VerbsealError `audit_head_missing`, `audit_in_use`, `audit_key`, `audit_unwritable`
   */
  static async open(
    paths: AuditPaths,
    openFile: (path: string) => Promise<AuditFile> = AuditFile.open,
  ): Promise<AuditLog> {
    const key = await ensureAuditKey(paths.key);
    const file = await openFile(paths.file);
    try {
      const tail = await auditTail(paths, key);
      const chain = tail ? AuditChain.after(key, tail.last) : AuditChain.begin(key);
      const opened = new AuditLog(paths, chain, file, openFile);
      await opened.#begin(tail);
      return opened;
    } catch (error) {
      file.close();
      throw error;
    }
  }

  get failing(): boolean {
    return this.#failure !== undefined;
  }

  record(entry: AuditEntry): Promise<void> {
    return this.#repeats.counts(entry) ? Promise.resolve() : this.#queue(entry);
  }

  #queue(entry: AuditEntry): Promise<void> {
    if (this.#ending.signal.aborted) return refused(); // nobody writes any more
    if (this.#waiting.length >= MAX_WAITING) {
      this.#lost += 1;
      return refused();
    }
    const durable = Promise.withResolvers<void>();
    durable.promise.catch(() => {}); // of interest only to who waits
    this.#waiting.push({ members: membersOf(entry), durable });
    if (this.#failure) durable.reject(auditRefusal());
    this.#wake();
    return durable.promise;
  }

  /** Goes on in a new file if that of before was moved away; also without, with the next line. */
  rotate(): void {
    this.#rotationDue = true;
    this.#wake();
  }

  /** Writes all that was recorded, and tells the log where the chain ends. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#headTimer);
    this.#repeats[Symbol.dispose]();
    this.#ending.abort();
    this.#wake();
    await this.#writing;
    this.#logHead();
    this.#file.close();
  }

  /** The first lines: what cannot be written now need not be tried later. */
  async #begin(tail: AuditTail | undefined): Promise<void> {
    try {
      await this.#file.cutOff(tail?.tornBytes ?? 0);
      if (this.#file.size > 0) this.#headDue = true;
      else this.#batch = this.#header();
      if (this.#batch && tail) this.#tellOfFormerFiles(tail);
      await this.#step();
    } catch (error) {
      clearInterval(this.#headTimer);
      throw unwritable(this.paths, error);
    }
    if (!tail?.tornBytes) return;
    log.warning("the audit log ended within a line, as a crash leaves it", { ...tail });
    await this.record({ event: "audit", tornBytes: tail.tornBytes });
  }

  #wake(): void {
    if (!this.#writing && this.#due) this.#writing = this.#write();
  }

  get #due(): boolean {
    const due = this.#waiting.length > 0 || this.#batch !== undefined || this.#headDue ||
      this.#rotationDue;
    return due && !this.#file.broken;
  }

  async #write(): Promise<void> {
    while (this.#due) {
      try {
        await this.#step();
        this.#succeeded();
      } catch (error) {
        this.#failed(error);
        if (this.#ending.signal.aborted) break;
        await delay(RETRY_MILLISECONDS, { signal: this.#ending.signal }).catch(() => {});
      }
    }
    // At once: what comes from here on would wake nobody.
    this.#writing = undefined;
  }

  async #step(): Promise<void> {
    if (!this.#batch) await this.#lookAtFile();
    this.#batch ??= this.#nextBatch();
    await this.#writeBatch(this.#batch);
    this.#batch = undefined;
    if (!this.#headDue) return;
    await writeAuditHead(this.paths.head, this.chain.head);
    this.#headDue = false;
  }

  async #lookAtFile(): Promise<void> {
    this.#rotationDue = false;
    const state = await this.#file.look();
    if (state === "changed") {
      const { file } = this.paths;
      log.error("the audit log was changed by others", {
        file,
        remedy: `verbseal audit verify ${file}`,
      });
      this.record({ event: "audit", changed: file });
    }
    if (state !== "moved") return;
    const next = await this.openFile(this.paths.file);
    this.#file.close();
    this.#file = next;
    this.#batch = this.#header();
    log.info("the audit log goes on in a new file", { file: this.paths.file });
  }

  /** Whoever removes a file while no server runs leaves the same behind as one who moves it away. */
  #tellOfFormerFiles({ last: { chain, sequence } }: AuditTail): void {
    log.warning("the audit log begins a new file: all before is in files that were moved away", {
      file: this.paths.file,
      chain,
      lastSequence: sequence,
      remedy: "If nobody has moved them, somebody has removed them",
    });
  }

  #header(): Batch {
    return { bytes: this.chain.header(now()), waiting: [], written: 0 };
  }

  #nextBatch(): Batch {
    const waiting = this.#waiting.splice(0);
    const lines = waiting.map(({ members }) => this.chain.line(members));
    if (this.#lost > 0) lines.push(this.#lostLine());
    return { bytes: Buffer.concat(lines), waiting, written: 0 };
  }

  /** Says, behind the lines that were kept, how many came after them and were not. */
  #lostLine(): Buffer {
    const lostLines = this.#lost;
    this.#lost = 0;
    log.error("lines of the audit log are lost: too many came at once, or for too long", {
      file: this.paths.file,
      lostLines,
    });
    return this.chain.line(membersOf({ event: "audit", lostLines }));
  }

  async #writeBatch(batch: Batch): Promise<void> {
    const { bytes, waiting } = batch;
    if (bytes.length === 0) return;
    while (batch.written < bytes.length) {
      batch.written += await this.#file.write(bytes.subarray(batch.written));
    }
    await this.#file.sync();
    this.#headDue = true;
    for (const { durable } of waiting) durable.resolve();
  }

  #succeeded(): void {
    if (!this.#failure) return;
    this.#failure = undefined;
    log.info("the audit log can be written again", { file: this.paths.file });
  }

  #failed(error: unknown): void {
    if (!this.#failure) {
      const { message, remedy } = unwritable(this.paths, error);
      log.error("the audit log cannot be written: nobody new is let in", {
        detail: message,
        remedy: this.#file.broken ? "Start the server again once its disk is well" : remedy,
      });
    }
    this.#failure = error;
    const unwritten = [...this.#batch?.waiting ?? [], ...this.#waiting];
    for (const { durable } of unwritten) durable.reject(auditRefusal());
  }

  #logHead(): void {
    const { head } = this.chain;
    if (head.sequence === this.#loggedSequence) return;
    this.#loggedSequence = head.sequence;
    log.info("audit head", { ...head });
  }
}

function membersOf({ event, session, peer, identity, ...rest }: AuditEntry): string {
  const fields = Object.entries({ time: now(), event, session, peer, identity, ...rest });
  const present = fields.filter(([, value]) => value !== undefined);
  return jsonText(Object.fromEntries(present)).slice(1, -1);
}

/** Of interest only to who waits. */
function refused(): Promise<never> {
  const refusal = Promise.reject(auditRefusal());
  refusal.catch(() => {});
  return refusal;
}

function now(): string {
  return new Date().toISOString();
}

function unwritable({ file }: AuditPaths, error: unknown): VerbsealError {
  if (error instanceof VerbsealError) return error;
  return new VerbsealError(
    "audit_unwritable",
    `the audit log ${file} or its head cannot be written: ${errorText(error)}`,
    "Make room on its disk, and let this user write there",
    { cause: error },
  );
}
