import { Option } from "commander";
import { retry } from "@std/async/retry";
import { errorText, RefusedError, TlsError, UsageError, VerbsealError } from "../errors.ts";
import type { Client } from "../services/client.ts";
import { logger } from "../telemetry/log.ts";
import { duration } from "./values.ts";

const log = logger("client");

/** As long as a server keeps what a put has not finished. */
const defaultSeconds = 60;

/** Sessions that may be lost within a minute: who disturbs each at once is not helped by more of them. */
const LOSSES_PER_MINUTE = 10;

/** Milliseconds before the second attempt to reconnect, and before any at most. */
const FIRST_WAIT = 100;
const LONGEST_WAIT = 5000;

/** What TLS says of a connection; everything else is about who the server is, and stays as it is. */
const passing: ReadonlySet<string> = new Set([
  "connection_closed",
  "connection_lost",
  "exchange_timeout",
  "handshake_timeout",
  "hung_up",
  "session_ended",
]);

/** What a server refuses for as long as it runs, or its policy stays, as it is. */
const lasting: ReadonlySet<string> = new Set([
  "policy",
  "service",
  "transport",
  "connect",
  "seal",
]);

/** Adds `--reconnect` to a command whose work can be gone on with. */
export function reconnectOption(): Option {
  return new Option(
    "--reconnect <duration>",
    "how long to try to reconnect, and to go on, when the connection is lost; 0 for not at all",
  ).argParser(duration(0, 86400)).default(defaultSeconds);
}

/** How sessions are opened, one after the other. */
export interface Reconnecting {
  /** @param resume name of the session that was lost */
  readonly open: (signal: AbortSignal, resume?: string) => Promise<Client>;
  /** Ends everything. */
  readonly signal: AbortSignal;
  /** Seconds to try to get another session in place of one that was lost. */
  readonly seconds: number;
}

/**
 * Works in a session, and goes on in another one if it is lost.
 *
 * @param work is told how many sessions were lost before; what it has not finished it goes on with
 */
export async function inSessions<T>(
  options: Reconnecting,
  work: (client: Client, losses: number) => Promise<T>,
): Promise<T> {
  const { open, signal, seconds } = options;
  const times: number[] = [];
  let client = await open(signal);
  for (let losses = 0;; losses++) {
    await using current = client;
    try {
      return await current.session.during(work(current, losses));
    } catch (error) {
      if (signal.aborted || seconds === 0 || !await current.session.hasEnded()) throw error;
      times.push(performance.now());
      const recent = times.filter((time) => time > performance.now() - 60_000).length;
      if (recent > LOSSES_PER_MINUTE) throw error;
      const { session } = current.session.agreed;
      log.warning("connection lost, trying to reconnect", { reason: errorText(error), seconds });
      await current[Symbol.asyncDispose]();
      client = await reopen(options, session, error);
      log.warning("connected again", { session: client.session.agreed.session });
    }
  }
}

/** @throws the last failure when there is no session in time */
async function reopen(
  { open, signal, seconds }: Reconnecting,
  lost: string,
  why: unknown,
): Promise<Client> {
  const late = AbortSignal.timeout(seconds * 1000);
  const either = AbortSignal.any([signal, late]);
  let last = why;
  try {
    return await retry(() =>
      open(either, lost).catch((error) => {
        if (!either.aborted) last = error;
        throw error;
      }), {
      minTimeout: FIRST_WAIT,
      maxTimeout: LONGEST_WAIT,
      maxAttempts: Number.MAX_SAFE_INTEGER,
      jitter: 0.5,
      isRetriable: mayPass,
      signal: either,
    });
  } catch (error) {
    signal.throwIfAborted();
    throw late.aborted ? last : error;
  }
}

function mayPass(error: unknown): boolean {
  if (error instanceof TlsError) return passing.has(error.code);
  if (error instanceof RefusedError) return !lasting.has(error.code);
  return error instanceof VerbsealError && !(error instanceof UsageError);
}
