import { RefusedError } from "../errors.ts";

/** What is recorded. */
export type AuditEvent =
  /** The server began, or ended in order. */
  | "started"
  | "stopped"
  /** A client came in; was not let in, and why; its session ended, why, and what services have done. */
  | "accepted"
  | "refused"
  | "ended"
  /** What the policy says of a client. */
  | "policy"
  /** A put, get or grant of memory, or that it was refused. Messages are counted, for `ended`. */
  | "service"
  /** Bytes are not what they were, or not from whom they claim to be. */
  | "integrity"
  /** Counters of a port that tell of errors have moved. */
  | "counters"
  /** A queue pair was replaced, or a transfer went on. */
  | "recovery"
  /** A limit was hit. */
  | "limit"
  /** Certificates or the policy were read again. */
  | "configuration"
  /** The log itself: lines that could not be written, what a crash left behind, that others changed it. */
  | "audit";

/** One event. Values are plain data, and never secrets. */
export interface AuditEntry {
  readonly event: AuditEvent;
  /** Of the session that it is about, once it has a name. */
  readonly session?: string | undefined;
  /** Address of the other side. */
  readonly peer?: string | undefined;
  /** Of the other side: its certificate, or `anonymous`. */
  readonly identity?: unknown;
  readonly [field: string]: unknown;
  // What the log itself adds.
  readonly time?: never;
  readonly sequence?: never;
  readonly mac?: never;
}

/** Where security events go. */
export interface Audit {
  /**
   * Records an event, in the order of calls.
   *
   * @returns resolves when the line is on disk. Wait for it before answering what must not happen
   * unrecorded: letting a client in, and every put, get and grant. Whoever does not wait loses nothing.
   * Rejects with {@linkcode auditRefusal} when it cannot be written now.
   */
  record(entry: AuditEntry): Promise<void>;
  /** Nothing can be written at present: what has to be recorded must not be begun. */
  readonly failing: boolean;
}

/** What clients are told. */
export function auditRefusal(): RefusedError {
  return new RefusedError(
    "audit",
    "the server cannot write its audit log, and does nothing that it cannot record",
    "ask who runs the server",
  );
}
