import { type Command, Option } from "commander";
import { UsageError } from "../errors.ts";
import { exists } from "../exists.ts";
import type { Revocation, RevocationReason } from "../tls/revocation_list.ts";
import { authorityOption } from "./certs_options.ts";
import { momentText } from "./moment.ts";
import { outputOf } from "./output.ts";
import { examples } from "./program.ts";
import { wholeNumber } from "./values.ts";

interface RevokeOptions {
  readonly directory: string;
  readonly reason: RevocationReason;
  readonly crlDays: number;
}

/** Those that a server's or client's certificate can have and that are for good. */
const reasons: readonly RevocationReason[] = [
  "unspecified",
  "keyCompromise",
  "affiliationChanged",
  "superseded",
  "cessationOfOperation",
  "privilegeWithdrawn",
];

/** Adds `verbseal certs revoke`. */
export function addRevokeCommand(certs: Command): void {
  certs.command("revoke")
    .argument("[file-or-serial...]", "certificates, PEM, or their serial numbers")
    .summary("revoke certificates, or renew the list of those")
    .description(
      "Revoke certificates: put them on the list (CRL) of their authority, ca.crl beside ca.pem, " +
        "and sign it anew. Without any, only the date by which the next list is due changes. " +
        "Those that check the list need the new one.",
    )
    .addOption(authorityOption())
    .addOption(
      new Option("--reason <reason>", "why; the list says so").choices(reasons)
        .default("unspecified"),
    )
    .option(
      "--crl-days <days>",
      "the next list is due after so many days; then this one is refused",
      wholeNumber(1, 365),
      30,
    )
    .addHelpText(
      "after",
      examples(
        ["verbseal certs revoke certs/backup.pem --reason keyCompromise", "one whose key leaked"],
        [
          "verbseal certs revoke 4FA7A8F2DE3B90D19E29B3A3F0C1D2E3",
          "one whose file is gone, by its serial number",
        ],
        ["verbseal certs revoke", "nothing, but renew the list before it is too old"],
      ),
    )
    .action(revoke);
}

async function revoke(
  filesOrSerials: string[],
  { directory, reason, crlDays }: RevokeOptions,
  command: Command,
): Promise<void> {
  const { loadAuthority, loadIssued } = await import("../tls/authority.ts");
  const { extendRevocationList } = await import("../tls/revocation_list.ts");
  const authority = await loadAuthority(directory);
  const revocations: Revocation[] = [];
  for (const text of filesOrSerials) {
    const serialNumber = await exists(text)
      ? (await loadIssued(authority, text)).serialNumber
      : serialOf(text);
    revocations.push({ serialNumber, reason });
  }
  const { path, list, added } = await extendRevocationList(authority, directory, revocations, {
    days: crlDays,
  });
  const serials = new Set(revocations.map(({ serialNumber }) => serialNumber));
  const nextUpdate = list.nextUpdate!;
  outputOf(command).result(
    { file: path, revoked: added, total: list.entries.length, nextUpdate },
    [
      ...[...serials].map((serial) =>
        added.includes(serial) ? `Revoked ${serial}` : `${serial} was revoked already`
      ),
      `${path} lists ${list.entries.length}; the next list is due on ${momentText(nextUpdate)}`,
    ].join("\n"),
  );
}

/** At most 20 bytes (RFC 5280, section 4.1.2.2), written as openssl or browsers do. */
function serialOf(text: string): string {
  const digits = text.replaceAll(":", "");
  if (/^[0-9a-f]{1,40}$/i.test(digits)) {
    const shortest = BigInt(`0x${digits}`).toString(16);
    return shortest.padStart(shortest.length + shortest.length % 2, "0");
  }
  throw new UsageError(
    "no_certificate",
    `${text} is neither a file nor a serial number`,
    "Name a certificate's file, or its serial number in hexadecimal digits",
  );
}
