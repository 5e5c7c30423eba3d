import type { Command } from "commander";
import { outputOf } from "./output.ts";
import { examples } from "./program.ts";
import { host, repeated, wholeNumber } from "./values.ts";

interface InitOptions {
  readonly directory: string;
  readonly host?: string[];
  readonly days: number;
  readonly force?: boolean;
}

/** Longest validity that browsers and operating systems accept of a leaf of a private authority. */
const daysMost = 825;

/** Adds `verbseal certs`. */
export function addCertsCommand(program: Command): void {
  program.command("certs")
    .summary("certificates for development")
    .description("Create certificates for development.")
    .addHelpText("after", examples(["verbseal certs init", "an authority and two certificates"]))
    .command("init")
    .summary("create an authority, and a server and a client certificate")
    .description(
      "Create an authority (CA) and, signed by it, a server and a client certificate, each with " +
        "its key. The server's is for localhost, this machine's name, and the hosts you name.",
    )
    .option("--directory <directory>", "folder to write to", "certs")
    .option(
      "--host <name-or-address>",
      "a name or IP address that clients reach the server by; may be repeated",
      repeated(host),
    )
    .option(
      "--days <days>",
      `validity of the server and client certificates, at most ${daysMost}`,
      wholeNumber(1, daysMost),
      daysMost,
    )
    .option("--force", "replace existing files")
    .addHelpText(
      "after",
      examples(
        ["verbseal certs init", "for trying things out on one machine, in ./certs"],
        [
          "verbseal certs init --host storage1.example.com --host 10.0.0.5",
          "for a server that others reach by that name and that address",
        ],
        ["verbseal certs init --directory /etc/verbseal --days 90", "elsewhere, for three months"],
      ),
    )
    .action(init);
}

async function init(options: InitOptions, command: Command): Promise<void> {
  // Loaded here as it takes longer than the rest of the program, and no other command needs it.
  const { createCertificates } = await import("../tls/certificates.ts");
  const { writeCertificates } = await import("../tls/certificate_files.ts");
  const hosts = [
    ...new Set(["localhost", "127.0.0.1", "::1", Deno.hostname(), ...options.host ?? []]),
  ];
  const certificates = await createCertificates({ hosts, days: options.days });
  const files = await writeCertificates(options.directory, certificates, {
    overwrite: options.force === true,
  });
  outputOf(command).result(
    { files, hosts, days: options.days },
    `${files.join("\n")}\nThe server certificate is for ${hosts.join(", ")}.`,
  );
}
