import { Command, CommanderError, Option } from "commander";
import { UsageError } from "../errors.ts";
import { hideMemory } from "../security/process_memory.ts";
import { configureLogging, logFormats, logLevels, type LogSettings } from "../telemetry/log.ts";
import { writeText } from "../telemetry/streams.ts";
import { reportFailure } from "./output.ts";
import { version } from "./version.ts";

/** Exit code of a wrong command line. */
const usage = 2;

/** A command whose complaints are UsageErrors that name the help to read. */
class VerbsealCommand extends Command {
  constructor(name?: string) {
    super(name);
    this.helpCommand(false).helpOption("-h, --help", "print this help");
  }

  override createCommand(name?: string): Command {
    return new VerbsealCommand(name);
  }

  override error(message: string): never {
    const [what = "", guess] = message.replace(/^error: /, "").split(/\n\(|\)$/);
    const help = `See ${commandPath(this)} --help`;
    throw new UsageError("usage", what, guess === undefined ? help : `${guess} ${help}`);
  }
}

/** The words that call a command: `verbseal client ping`. */
export function commandPath(command: Command): string {
  return command.parent === null
    ? command.name()
    : `${commandPath(command.parent)} ${command.name()}`;
}

/**
 * The program without commands; each is added by a function of its own file. Commands made by
 * `program.command(…)` inherit everything here; the global options are understood before and
 * after them.
 */
export function createProgram(): Command {
  return new VerbsealCommand("verbseal")
    .description("RDMA queue pairs set up over TLS, with random packet sequence numbers.")
    .version(version, "--version", "print the version")
    .option("--json", "print results as one JSON object per line")
    .addOption(logOption("--log-level <level>", "least serious level to log", logLevels, "info"))
    .addOption(logOption("--log-format <format>", "format of the log", logFormats, "text"))
    // The longest options leave little beside them.
    .configureHelp({ showGlobalOptions: true, minWidthToWrap: 30 })
    .addHelpText(
      "after",
      examples(
        ["verbseal devices", "is there an RDMA port, and which would be used?"],
        ["verbseal certs init && verbseal server --root /srv/files", "a server of files"],
        ["verbseal client put localhost data.bin --ca certs/ca.pem", "a client of it"],
      ),
    )
    .configureOutput({
      writeOut: (text) => writeText(Deno.stdout, text),
      writeErr: (text) => writeText(Deno.stderr, text),
      // The help has no colours; to find out whether it may would need leave to read variables.
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    })
    .exitOverride()
    .hook("preAction", (_program, command) => {
      hideMemory();
      configureLogging(logSettingsOf(command));
    });
}

function logOption(flags: string, what: string, choices: readonly string[], initial: string) {
  return new Option(flags, what).choices(choices).default(initial);
}

/** What `--log-level` and `--log-format` say; workers need it to log alike. */
export function logSettingsOf(command: Command): LogSettings {
  const { logLevel, logFormat } = command.optsWithGlobals<
    { logLevel: LogSettings["level"]; logFormat: LogSettings["format"] }
  >();
  return { level: logLevel, format: logFormat };
}

/**
 * The end of a command's help.
 *
 * @param lines pairs of a command line and what it does
 */
export function examples(...lines: [commandLine: string, what: string][]): string {
  return "\nExamples:\n" + lines.map(([line, what]) => `  # ${what}\n  ${line}\n`).join("\n");
}

/**
 * Runs the program to its end. What goes wrong is reported here and nowhere else.
 *
 * @returns the exit code: 0 done; 1 failed while running; 2 usage; 3 TLS or identity; 4 RDMA;
 * 5 refused by the server; 6 integrity
 */
export async function runProgram(program: Command, args: readonly string[]): Promise<number> {
  const report = (error: unknown) =>
    reportFailure(error, {
      json: args.slice(0, args.includes("--") ? args.indexOf("--") : undefined).includes("--json"),
      stack: program.opts<{ logLevel?: string }>().logLevel === "debug",
    });
  globalThis.addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    Deno.exit(report(event.reason));
  });
  globalThis.addEventListener("error", (event) => {
    event.preventDefault();
    Deno.exit(report(event.error));
  });
  try {
    await program.parseAsync(args, { from: "user" });
    return 0;
  } catch (error) {
    // Help and version were printed already, help for want of a command on standard error.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : usage;
    return report(error);
  }
}
