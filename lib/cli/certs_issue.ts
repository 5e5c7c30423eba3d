import { type Command, Option } from "commander";
import { UsageError } from "../errors.ts";
import type { CertificateRequest } from "../tls/issue.ts";
import type { KeyType } from "../tls/key_types.ts";
import {
  authorityOption,
  certificateName,
  daysOption,
  keyTypeOption,
  namePart,
  uri,
  webUrl,
} from "./certs_options.ts";
import { outputOf } from "./output.ts";
import { examples } from "./program.ts";
import { host, repeated } from "./values.ts";

interface IssueOptions {
  readonly for: "server" | "client";
  readonly directory: string;
  readonly host?: string[];
  readonly uri?: string;
  readonly organization?: string;
  readonly organizationalUnit?: string;
  readonly ocspUrl?: string;
  readonly crlUrl?: string;
  readonly days: number;
  readonly keyType: KeyType;
  readonly force?: boolean;
}

/** Adds `verbseal certs issue`. */
export function addIssueCommand(certs: Command): void {
  certs.command("issue")
    .argument("<name>", "its common name, and the name of its files", certificateName)
    .summary("create a further server or client certificate")
    .description(
      "Create a server or client certificate, signed by the authority that verbseal certs init " +
        "made, and its key: NAME.pem and NAME.key beside the authority's files.",
    )
    .addOption(
      new Option("--for <use>", "who is to show it").choices(["server", "client"])
        .makeOptionMandatory(),
    )
    .addOption(authorityOption())
    .option(
      "--host <name-or-address>",
      "a name or IP address that it is for (default: a server's NAME); may be repeated",
      repeated(host),
    )
    .option("--uri <uri>", "an identity as SPIFFE writes it; policies can match it", uri)
    .option("--organization <name>", "organization (O) of its subject", namePart)
    .option(
      "--organizational-unit <name>",
      "organizational unit (OU) of its subject; policies can match it",
      namePart,
    )
    .option(
      "--ocsp-url <url>",
      "where its status can be asked for; NAME.pem holds the authority's certificate too then",
      webUrl,
    )
    .option("--crl-url <url>", "where the list of revoked certificates is published", webUrl)
    .addOption(daysOption("the certificate"))
    .addOption(keyTypeOption())
    .option("--force", "replace existing files")
    .addHelpText(
      "after",
      examples(
        [
          "verbseal certs issue storage2 --for server --host storage2.example.com --host 10.0.0.6",
          "for a second server: certs/storage2.pem and certs/storage2.key",
        ],
        [
          "verbseal certs issue backup --for client --organizational-unit operations --days 90",
          "for a client, for three months",
        ],
        [
          "verbseal certs issue trainer --for client --uri spiffe://example.com/trainer",
          "for a client that a policy knows by its URI",
        ],
      ),
    )
    .action(issue);
}

async function issue(name: string, options: IssueOptions, command: Command): Promise<void> {
  const { loadAuthority } = await import("../tls/authority.ts");
  const { issueCertificate } = await import("../tls/issue.ts");
  const { identityFiles, writeFiles } = await import("../tls/pem_files.ts");
  const { for: use, directory, force } = options;
  const hosts = options.host ?? (use === "server" ? [hostOf(name)] : []);
  const request: CertificateRequest = { ...options, commonName: name, use, hosts };
  const identity = await issueCertificate(await loadAuthority(directory), request);
  const files = await writeFiles(directory, identityFiles(directory, name, identity), {
    overwrite: force === true,
  });
  outputOf(command).result({ files, hosts }, files.join("\n"));
}

function hostOf(name: string): string {
  try {
    return host(name);
  } catch (error) {
    throw new UsageError(
      "host_missing",
      `${name} is no host that a server could be reached by`,
      "Say with --host which names and addresses the certificate is for",
      { cause: error },
    );
  }
}
