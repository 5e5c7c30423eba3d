import { InvalidArgumentError, Option } from "commander";
import { UsageError } from "../errors.ts";
import { strongCiphers } from "../tls/openssl_context.ts";
import type { TlsSettings } from "../tls/options.ts";

/** What {@linkcode minVersionOption} and {@linkcode ciphersOption} leave. */
export interface TlsSettingsOptions {
  readonly tlsMin?: "1.2" | "1.3";
  readonly tlsCiphers?: readonly string[];
}

/** `--tls-min`. */
export function minVersionOption(): Option {
  return new Option("--tls-min <version>", "least version of TLS (default: 1.2)")
    .choices(["1.2", "1.3"]);
}

/** `--tls-ciphers`. */
export function ciphersOption(): Option {
  return new Option(
    "--tls-ciphers <list>",
    "cipher suites by OpenSSL's names, most wanted first, with commas or colons between them " +
      "(default: all that are strong)",
  ).argParser(ciphers);
}

function ciphers(text: string): string[] {
  const names = text.split(/[,:]/).map((name) => name.trim());
  const refused = names.find((name) => !strongCiphers.includes(name));
  if (refused === undefined) return names;
  const what = `${JSON.stringify(refused)} is unknown or weak`;
  throw new InvalidArgumentError(`${what}; allowed are ${strongCiphers.join(", ")}.`);
}

/**
 * What a handshake may agree on, by the options.
 *
 * @throws UsageError `no_cipher_left` if no cipher suite is of the least version or later
 */
export function tlsSettings({ tlsMin, tlsCiphers }: TlsSettingsOptions): TlsSettings {
  if (tlsMin === "1.3" && tlsCiphers && !tlsCiphers.some((name) => name.startsWith("TLS_"))) {
    throw new UsageError(
      "no_cipher_left",
      "None of the cipher suites of --tls-ciphers is for TLS 1.3, the least version by --tls-min",
      "Add one whose name begins with TLS_, or allow TLS 1.2",
    );
  }
  return {
    ...(tlsMin === undefined ? {} : { minVersion: tlsMin }),
    ...(tlsCiphers === undefined ? {} : { ciphers: tlsCiphers }),
  };
}
