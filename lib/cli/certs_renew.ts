import { type Command, Option } from "commander";
import { authorityOption, daysMost } from "./certs_options.ts";
import { momentText } from "./moment.ts";
import { outputOf } from "./output.ts";
import { examples } from "./program.ts";
import { wholeNumber } from "./values.ts";

interface RenewOptions {
  readonly directory: string;
  readonly days?: number;
  readonly keepKey?: boolean;
}

/** Adds `verbseal certs renew`. */
export function addRenewCommand(certs: Command): void {
  certs.command("renew")
    .argument("<file...>", "certificates, PEM; their keys are beside them, ending in .key")
    .summary("replace certificates by new ones that say the same")
    .description(
      "Replace certificates by new ones that say the same from now on, signed by their authority, " +
        "and their keys by new ones. With --keep-key the key stays, and so do pins of it. Each " +
        "file is replaced at once, so a server that watches them never sees half of one. The old " +
        "certificate stays valid until its time is over or its serial number is revoked.",
    )
    .addOption(authorityOption())
    .addOption(
      new Option(
        "--days <days>",
        `validity of the new certificates, at most ${daysMost} (default: as long as before)`,
      ).argParser(wholeNumber(1, daysMost)),
    )
    .option("--keep-key", "keep the key, so that pins of it stay good")
    .addHelpText(
      "after",
      examples(
        ["verbseal certs renew certs/server.pem --keep-key", "clients that pin it see no change"],
        ["verbseal certs renew certs/server.pem certs/client.pem", "two, with new keys"],
      ),
    )
    .action(renew);
}

async function renew(files: string[], options: RenewOptions, command: Command): Promise<void> {
  const { loadAuthority } = await import("../tls/authority.ts");
  const { renewCertificate } = await import("../tls/renew.ts");
  const { directory, days, keepKey = false } = options;
  const authority = await loadAuthority(directory);
  const output = outputOf(command);
  for (const file of files) {
    const { key, before, after } = await renewCertificate(authority, file, { days, keepKey });
    output.result(
      {
        file,
        key,
        keyKept: keepKey,
        notAfter: after.notAfter,
        serialNumber: after.serialNumber,
        serialNumberBefore: before.serialNumber,
      },
      `${file} is valid until ${momentText(after.notAfter)}, ` +
        `${keepKey ? "with the same key" : `with a new key, ${key}`}; ` +
        `the old serial number was ${before.serialNumber}`,
    );
  }
}
