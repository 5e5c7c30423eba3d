import type { Command } from "commander";
import type { KeyType } from "../tls/key_types.ts";
import { daysOption, keyTypeOption } from "./certs_options.ts";
import { outputOf } from "./output.ts";
import { examples } from "./program.ts";
import { host, repeated } from "./values.ts";

interface InitOptions {
  readonly directory: string;
  readonly host?: string[];
  readonly days: number;
  readonly keyType: KeyType;
  readonly force?: boolean;
}

/** Adds `verbseal certs init`. */
export function addInitCommand(certs: Command): void {
  certs.command("init")
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
    .addOption(daysOption("the server and client certificates"))
    .addOption(keyTypeOption())
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
  // Loaded here as it takes longer than the rest of the program, and only certs needs it.
  const { createCertificates } = await import("../tls/certificates.ts");
  const { writeCertificates } = await import("../tls/certificate_files.ts");
  const { days, keyType } = options;
  const hosts = [
    ...new Set(["localhost", "127.0.0.1", "::1", Deno.hostname(), ...options.host ?? []]),
  ];
  const certificates = await createCertificates({ hosts, days, keyType });
  const files = await writeCertificates(options.directory, certificates, {
    overwrite: options.force === true,
  });
  outputOf(command).result(
    { files, hosts, days },
    `${files.join("\n")}\nThe server certificate is for ${hosts.join(", ")}.`,
  );
}
