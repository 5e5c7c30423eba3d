/**
 * What can go wrong, by who has to do something about it. Each class has the exit code that
 * the command line ends with; each error says what failed, why, and what to do.
 */
export class VerbsealError extends Error {
  override readonly name: string = "VerbsealError";
  /** Exit code of the command line: 1, failed while running. */
  readonly exitCode: number = 1;

  /**
   * @param code stable machine-readable name, in snake_case
   * @param message what failed and why, one sentence without a full stop
   * @param remedy what the user can do, one sentence without a full stop
   */
  constructor(
    readonly code: string,
    message: string,
    readonly remedy: string = "",
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** The command line was wrong. */
export class UsageError extends VerbsealError {
  override readonly name = "UsageError";
  override readonly exitCode = 2;
}

/** TLS or the identity of the other side. */
export class TlsError extends VerbsealError {
  override readonly name = "TlsError";
  override readonly exitCode = 3;
}

/** Libraries, devices, queue pairs and work requests. */
export class RdmaError extends VerbsealError {
  override readonly name: string = "RdmaError";
  override readonly exitCode = 4;
}

/** A queue pair has failed. Its session goes on with another one: what was under way may be begun again. */
export class QueuePairError extends RdmaError {
  override readonly name: string = "QueuePairError";
}

/** The server said no: limits or policy. */
export class RefusedError extends VerbsealError {
  override readonly name: string = "RefusedError";
  override readonly exitCode = 5;
}

/** What of a peer's is limited, by names that log, audit log and metrics have. */
export const limitNames = [
  ...["clients", "clients_per_address", "sessions_per_identity", "session_rate", "device_full"],
  ...["connection_rate", "handshakes", "handshakes_per_address"],
  ...["registered_memory", "registered_memory_in_all"],
  ...["frame_rate", "message_rate", "grant_rate", "requests", "requeues"],
  ...["message_clients", "message_clients_per_address", "message_memory"],
] as const;

export type LimitName = typeof limitNames[number];

/** The server said no as the peer has had all that a limit lets it have. */
export class LimitError extends RefusedError {
  override readonly name = "LimitError";

  constructor(override readonly code: LimitName, message: string, remedy?: string) {
    super(code, message, remedy);
  }
}

/** Bytes are not what they were, or not who they claimed to be from. */
export class IntegrityError extends VerbsealError {
  override readonly name = "IntegrityError";
  override readonly exitCode = 6;
}

/** The other side broke the protocol; it ends that session and no other. */
export class ProtocolError extends VerbsealError {
  override readonly name = "ProtocolError";
}

/** Text of anything that was thrown. */
export function errorText(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The error itself if it is one of these; else one of this code that bears its text. */
export function asVerbsealError(code: string, error: unknown): VerbsealError {
  return error instanceof VerbsealError
    ? error
    : new VerbsealError(code, errorText(error), "", { cause: error });
}

/** An error as plain data, to cross threads. */
export interface PlainError {
  readonly name: string;
  readonly code: string;
  readonly message: string;
  readonly remedy: string;
}

/** A class stands before the one that it extends. */
const classes = {
  UsageError,
  TlsError,
  QueuePairError,
  RdmaError,
  LimitError,
  RefusedError,
  IntegrityError,
  ProtocolError,
};

/** The error as plain data; its class becomes the nearest of this file. */
export function toPlainError(error: unknown): PlainError {
  if (!(error instanceof VerbsealError)) {
    return { name: "VerbsealError", code: "internal", message: errorText(error), remedy: "" };
  }
  const { code, message, remedy } = error;
  const name = Object.entries(classes).find(([, known]) => error instanceof known)?.[0];
  return { name: name ?? "VerbsealError", code, message, remedy };
}

/** The error that plain data stand for. */
export function fromPlainError({ name, code, message, remedy }: PlainError): VerbsealError {
  const known = classes[name as keyof typeof classes] ?? VerbsealError;
  return new known(code as LimitName, message, remedy);
}
