import { type Command, Option } from "commander";
import { formatByteSize } from "../byte_size.ts";
import { UsageError } from "../errors.ts";
import { FRAME_SHARE, MESSAGE_MEMORY_SHARE } from "../session/admission.ts";
import { defaultLimits, type Limits } from "../session/limits.ts";
import { MESSAGE_BYTES } from "../session/messenger.ts";
import { byteSize, duration, type Parse, wholeNumber } from "./values.ts";

/** Longest duration of an option, in seconds: a day. */
const day = 86400;

const count = wholeNumber(1, 1e6);
const rate = wholeNumber(1, 1e9);
const seconds = duration(0.1, day);
const block = byteSize(4096, 2 ** 30);

/** An option of the limits. */
interface LimitOption {
  readonly flags: string;
  readonly text: string;
  readonly parse: Parse<number>;
  readonly unit?: "bytes" | "seconds";
}

/** By limit, in the order of the help. Why the defaults are what they are, {@linkcode Limits} tells. */
const options: Readonly<Record<keyof Limits, LimitOption>> = {
  clients: { flags: "--max-clients <count>", text: "sessions at once", parse: count },
  clientsPerAddress: {
    flags: "--max-clients-per-address <count>",
    text: "sessions at once from one address, or one IPv6 /64",
    parse: count,
  },
  clientsPerIdentity: {
    flags: "--max-clients-per-identity <count>",
    text: "sessions at once of one client certificate's names, unless the policy says how many",
    parse: count,
  },
  connectionsPerSecond: {
    flags: "--connection-rate <count>",
    text: "connections a second from one address",
    parse: count,
  },
  sessionsPerSecond: {
    flags: "--session-rate <count>",
    text: "sessions that one address begins a second; more wait a while, or are refused",
    parse: count,
  },
  handshakes: {
    flags: "--max-handshakes <count>",
    text: "connections at once that have not finished the exchange; a quarter from one address",
    parse: count,
  },
  handshakeSeconds: {
    flags: "--handshake-timeout <duration>",
    text: "time for the exchange",
    parse: seconds,
    unit: "seconds",
  },
  idleSeconds: {
    flags: "--idle-timeout <duration>",
    text: "silence that ends a session",
    parse: seconds,
    unit: "seconds",
  },
  drainSeconds: {
    flags: "--drain-timeout <duration>",
    text: "time for transfers to finish when the server stops",
    parse: duration(0, day),
    unit: "seconds",
  },
  registeredBytes: {
    flags: "--max-registered <bytes>",
    text: "registered memory of a session, set aside when it is let in",
    parse: byteSize(2 ** 19, 2 ** 40),
    unit: "bytes",
  },
  registeredBytesInAll: {
    flags: "--max-registered-in-all <bytes>",
    text: "registered memory of all sessions together",
    parse: byteSize(2 ** 19, 2 ** 50),
    unit: "bytes",
  },
  lentBytes: {
    flags: "--lent-memory <bytes>",
    text: "size of the region that each session can WRITE and READ",
    parse: block,
    unit: "bytes",
  },
  messageBytes: {
    flags: "--max-message <bytes>",
    text: "size of a message",
    parse: block,
    unit: "bytes",
  },
  queuedBytes: {
    flags: "--max-queued <bytes>",
    text: "answers of a session that wait, above which it may ask nothing more",
    parse: block,
    unit: "bytes",
  },
  messagesPerSecond: {
    flags: "--message-rate <count>",
    text:
      "fragments of messages, of 8 KiB, a second of a session, or of all plain TLS clients of one " +
      "address or identity",
    parse: rate,
  },
  grantsPerSecond: {
    flags: "--grant-rate <count>",
    text: "grants of memory a second of a session",
    parse: rate,
  },
  requests: {
    flags: "--max-requests <count>",
    text: "requests at once of a session",
    parse: count,
  },
  framesPerSecond: {
    flags: "--frame-rate <count>",
    text:
      `control frames, of 1 KiB, a second of a session; ${FRAME_SHARE} times as many of all sessions ` +
      "of one identity, or of one address without",
    parse: rate,
  },
  requeuesPerMinute: {
    flags: "--requeue-rate <count>",
    text:
      "times a minute that a session's queue pair is replaced; beyond --session-rate a second a client waits",
    parse: rate,
  },
  unfinishedSeconds: {
    flags: "--resume-time <duration>",
    text: "time for which an unfinished file waits for the rest of itself",
    parse: duration(0, day),
    unit: "seconds",
  },
  unfinishedFiles: {
    flags: "--max-unfinished <count>",
    text: "unfinished files at once in each worker",
    parse: count,
  },
  unfinishedFilesPerIdentity: {
    flags: "--max-unfinished-per-identity <count>",
    text: "those of one client certificate's names, or of one address without",
    parse: count,
  },
  messageClients: {
    flags: "--max-message-clients <count>",
    text: "clients at once of --messages-listen",
    parse: count,
  },
  messageClientsPerAddress: {
    flags: "--max-message-clients-per-address <count>",
    text: "those from one address, or one IPv6 /64, and of one certificate's names",
    parse: count,
  },
  messageMemory: {
    flags: "--max-message-memory <bytes>",
    text: "their requests that have not come in full; a quarter from one address",
    parse: byteSize(4096, 2 ** 40),
    unit: "bytes",
  },
};

const names = Object.keys(options) as (keyof Limits)[];

/** Adds them to `verbseal server`, under a heading of their own. */
export function addLimitOptions(command: Command): Command {
  for (const name of names) command.addOption(optionOf(name).helpGroup("Limits:"));
  return command;
}

function optionOf(name: keyof Limits): Option {
  const { flags, text, parse, unit } = options[name];
  const standard = defaultLimits[name];
  const shown = unit === "bytes" ? formatByteSize(standard) : unit ? `${standard}s` : undefined;
  return new Option(flags, text).argParser(parse).default(standard, shown);
}

/**
 * The limits that the command line gives.
 *
 * @param values of the command's options
 * @throws UsageError when one of them cannot be kept for another
 */
export function limitsOf(values: Readonly<Record<string, unknown>>): Limits {
  const limits = Object.fromEntries(
    names.map((name) => [name, values[optionOf(name).attributeName()] as number]),
  ) as unknown as Limits;
  const { lentBytes, registeredBytes, registeredBytesInAll, messageBytes, messageMemory } = limits;
  if (lentBytes > registeredBytes - MESSAGE_BYTES) {
    throw new UsageError(
      "limits",
      `--lent-memory of ${lentBytes} bytes and ${MESSAGE_BYTES} for messages are more than the ` +
        `${registeredBytes} that a session may register`,
      "raise --max-registered too",
    );
  }
  if (messageBytes > messageMemory * MESSAGE_MEMORY_SHARE) {
    throw new UsageError(
      "limits",
      `--max-message of ${messageBytes} bytes is more than the quarter of the ${messageMemory} that ` +
        "one address may have plain clients' requests hold",
      "raise --max-message-memory too",
    );
  }
  if (registeredBytes > registeredBytesInAll) {
    throw new UsageError(
      "limits",
      `--max-registered of ${registeredBytes} bytes leaves no room for a session in the ${registeredBytesInAll} of all`,
      "raise --max-registered-in-all, or lower --max-registered",
    );
  }
  return limits;
}
