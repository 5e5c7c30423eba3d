import type { Command } from "commander";
import { errorText, VerbsealError } from "../errors.ts";
import { printable } from "../telemetry/printable.ts";
import { writeText } from "../telemetry/streams.ts";

/** Where results go: text for people, or with `--json` one object per line. */
export class Output {
  /** @param json whether `--json` was given */
  constructor(readonly json: boolean) {}

  /**
   * Prints one result on standard output: `record` with `--json`, else `text` as a line. A
   * bigint becomes a decimal string, as JSON numbers end at 2^53.
   *
   * @throws VerbsealError when standard output cannot be written; a reader that has gone away
   * (`verbseal … | head -1`) is no error
   */
  result(record: Record<string, unknown>, text: string): void {
    writeResult(this.json ? jsonLine(record) : text);
  }
}

/** The output that the options of a command ask for. */
export function outputOf(command: Command): Output {
  return new Output(command.optsWithGlobals<{ json?: boolean }>().json === true);
}

/**
 * Reports what ended the program: one sentence on standard error, with `json` also an object on
 * standard output, with `stack` also where it happened.
 *
 * @returns the exit code
 */
export function reportFailure(error: unknown, options: { json: boolean; stack: boolean }): number {
  const { code, message, remedy, exitCode } = describe(error);
  const sentences = [message, capitalized(remedy)].filter((text) => text !== "")
    .map(withFullStop).join(" ");
  try {
    writeText(Deno.stderr, `verbseal: ${sentences}\n`);
    if (options.stack && error instanceof Error) writeText(Deno.stderr, `${error.stack}\n`);
    if (options.json) writeResult(jsonLine({ error: { code, message, remedy } }));
  } catch {
    // Nobody is left to tell; the exit code still does.
  }
  return exitCode;
}

function describe(error: unknown) {
  if (error instanceof VerbsealError) {
    const { code, exitCode } = error;
    return { code, exitCode, message: oneLine(error.message), remedy: oneLine(error.remedy) };
  }
  return {
    code: "unexpected",
    exitCode: 1,
    message: oneLine(errorText(error)),
    remedy: "Run it again with --log-level debug to see where this happened",
  };
}

/** Text of libraries comes with line breaks, that of peers with worse. */
function oneLine(text: string): string {
  return printable(text.trim().replaceAll(/\s*\n\s*/g, " "));
}

function capitalized(text: string): string {
  return text.slice(0, 1).toUpperCase() + text.slice(1);
}

function withFullStop(text: string): string {
  return /[.?!]$/.test(text) ? text : text + ".";
}

function jsonLine(record: Record<string, unknown>): string {
  return JSON.stringify(
    record,
    (_name, value: unknown) => typeof value === "bigint" ? value.toString() : value,
  );
}

function writeResult(line: string): void {
  try {
    writeText(Deno.stdout, line + "\n");
  } catch (error) {
    throw new VerbsealError(
      "output_failed",
      `Standard output cannot be written: ${errorText(error)}`,
      "Check the file or device that the output is sent to",
      { cause: error },
    );
  }
}
