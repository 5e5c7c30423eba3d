import type { Command } from "commander";
import { pinOf } from "../tls/pin.ts";
import { readCertificates } from "../tls/trust.ts";
import { outputOf } from "./output.ts";
import { examples } from "./program.ts";

/** Adds `verbseal certs pin`. */
export function addPinCommand(certs: Command): void {
  certs.command("pin")
    .argument("<file>", "a certificate, PEM; the first counts where there are several")
    .summary("print the pin of a certificate's public key")
    .description(
      "Print the pin of a certificate: the SHA-256 of its public key, which clients that know " +
        "it by --pin trust without an authority. It stays the same for as long as the key does.",
    )
    .addHelpText(
      "after",
      examples(
        ["verbseal certs pin certs/server.pem", "for the --pin option of clients"],
      ),
    )
    .action(async (file: string, _options: unknown, command: Command) => {
      const { certificates: [certificate] } = await readCertificates(file, "name another file");
      const pin = pinOf(certificate.publicKey.export({ type: "spki", format: "der" }));
      outputOf(command).result({ file, pin }, pin);
    });
}
