import { configureSync, getLogger, type Logger, type LogRecord } from "@logtape/logtape";
import { printable } from "./printable.ts";
import { writeText } from "./streams.ts";

/** Levels of `--log-level`, from the most to the least talkative. */
export const logLevels = ["debug", "info", "warning", "error"] as const;

/** Formats of `--log-format`: a line for people, or one JSON object per line. */
export const logFormats = ["text", "json"] as const;

/** Plain data: the control thread hands it to its workers in their first message. */
export interface LogSettings {
  readonly level: (typeof logLevels)[number];
  readonly format: (typeof logFormats)[number];
}

/** Sends the log of this thread to standard error. Every worker calls it for itself. */
export function configureLogging(settings: LogSettings): void {
  const format = settings.format === "json" ? jsonLine : textLine;
  configureSync({
    reset: true,
    sinks: { stderr: (record: LogRecord) => writeLogLine(format(record)) },
    loggers: [
      { category: "verbseal", sinks: ["stderr"], lowestLevel: settings.level },
      { category: ["logtape", "meta"], sinks: ["stderr"], lowestLevel: "error" },
    ],
  });
}

/**
 * The logger of one part of the program, such as `logger("session")`. Messages are constant text;
 * what varies goes into the fields: `log.info("session opened", { peer, qpn })`.
 */
export function logger(...category: string[]): Logger {
  return getLogger(["verbseal", ...category]);
}

/** A log that cannot be written is no reason to end sessions. */
function writeLogLine(line: string): void {
  try {
    writeText(Deno.stderr, line + "\n");
  } catch {
    return;
  }
}

/** `2026-01-31T12:00:00.000Z info verbseal.session session opened peer=10.0.0.2:4433` */
export function textLine(record: LogRecord): string {
  const fields = Object.entries(record.properties)
    .map(([name, value]) => ` ${printable(name)}=${textField(name, value)}`);
  const { time, level, category, message } = head(record);
  return `${time} ${level} ${category} ${printable(message)}${fields.join("")}`;
}

/** `{"time":"2026-01-31T12:00:00.000Z","level":"info","category":…,"message":…,"peer":…}` */
export function jsonLine(record: LogRecord): string {
  return jsonText({ ...head(record), ...record.properties, ...head(record) });
}

function head(record: LogRecord) {
  return {
    time: new Date(record.timestamp).toISOString(),
    level: record.level,
    category: record.category.join("."),
    message: record.message.map((part) => typeof part === "string" ? part : jsonText(part)).join(
      "",
    ),
  };
}

/** A value bare where that is unambiguous, else in JSON's quotes. */
function textField(name: string, value: unknown): string {
  const encoded = jsonText({ [name]: value });
  const json = encoded.slice(encoded.indexOf(":", JSON.stringify(name).length) + 1, -1);
  return /^"[\w.:/@+\[\]-]+"$/.test(json) ? json.slice(1, -1) : json;
}

/** JSON on one line that is safe to show, without what looks like a secret. */
export function jsonText(value: unknown): string {
  return printable(JSON.stringify(value, withoutSecrets) ?? "undefined");
}

const secretName = /secret|passw|passphrase|token|credential|keys?$/i;

/** The last line of defence, should a secret ever be handed to the log: names and raw bytes. */
function withoutSecrets(this: Record<string, unknown>, name: string, value: unknown): unknown {
  const original = this[name];
  if (secretName.test(name)) return "[redacted]";
  if (ArrayBuffer.isView(original)) return `[${original.byteLength} bytes]`;
  if (original instanceof ArrayBuffer) return `[${original.byteLength} bytes]`;
  if (original instanceof Error) return `${original.name}: ${original.message}`;
  if (typeof value === "bigint") return value.toString();
  return value === undefined ? null : value;
}
