import { type Command, Option } from "commander";
import { toPlainError, UsageError } from "../errors.ts";
import { logger } from "../telemetry/log.ts";
import { defaultKnownHosts, KnownHosts } from "../tls/known_hosts.ts";
import { loadRevocationLists } from "../tls/load_revocation_lists.ts";
import type { TlsSettings } from "../tls/options.ts";
import { parsePin } from "../tls/pin.ts";
import { type OcspMode, ocspModes } from "../tls/revocation.ts";
import { type Identity, loadClientIdentity, loadTrust, type Trust } from "../tls/trust.ts";
import {
  ciphersOption,
  minVersionOption,
  tlsSettings,
  type TlsSettingsOptions,
} from "./tls_options.ts";
import { host, repeated } from "./values.ts";

const log = logger("client");

/** What {@linkcode addTrustOptions} leaves. */
export interface TrustOptions extends TlsSettingsOptions {
  readonly ca?: string;
  readonly crl?: readonly string[];
  readonly pin?: readonly string[];
  readonly knownHosts?: string;
  readonly trustNew?: boolean;
  readonly ocsp: OcspMode;
  readonly serverName?: string;
  readonly cert?: string;
  readonly key?: string;
}

/** Adds the options of clients that say whom to believe, what to show, and what to agree on. */
export function addTrustOptions(command: Command): Command {
  return command
    .option("--ca <file>", "authorities to trust, PEM (default: those that the system trusts)")
    .option(
      "--crl <file>",
      "lists of revoked certificates, PEM or DER, of each authority of --ca; can be given again",
      repeated((path) => path),
    )
    .option(
      "--pin <key>",
      "public key that the server has, as verbseal certs pin prints it; without --ca nothing " +
        "else is asked of its certificate but that it is in its time; can be given again",
      repeated(parsePin),
    )
    .addOption(
      new Option(
        "--known-hosts <file>",
        "servers that are known by their key, where neither --ca nor --pin is given (default: " +
          "~/.config/verbseal/known_hosts)",
      ).conflicts(["ca", "pin"]),
    )
    .addOption(
      new Option(
        "--trust-new",
        "add a new server to the known ones without asking, if the system's authorities do not " +
          "vouch for it",
      ).conflicts(["ca", "pin"]),
    )
    .addOption(
      new Option(
        "--ocsp <mode>",
        "ask the server for its authority's word (OCSP response, stapled) that its certificate is " +
          "not revoked: prefer goes on with a warning where there is none",
      ).choices(ocspModes).default("off"),
    )
    .option("--server-name <name>", "name in the server's certificate, if not the host's", host)
    .option("--cert <file>", "certificate of this client, PEM, for servers that ask for one")
    .option("--key <file>", "its key, PEM, or the pkcs11: URI of a key in a token")
    .addOption(minVersionOption())
    .addOption(ciphersOption());
}

/** What a client needs for its handshake. */
export interface ClientTls {
  /** Undefined where known hosts and the system's authorities decide. */
  readonly trust: Trust | undefined;
  readonly identity?: Identity;
  readonly serverName?: string;
  readonly settings: TlsSettings;
  readonly ocsp: OcspMode;
}

/**
 * Loads what the options name.
 *
 * @throws UsageError when one of them lacks another, TlsError when a file is of no use
 */
export async function loadClientTls(options: TrustOptions): Promise<ClientTls> {
  const { cert, key, serverName } = options;
  if ((cert === undefined) !== (key === undefined)) {
    throw new UsageError(
      "identity_incomplete",
      "--cert and --key belong together",
      "Give both, or neither where the server asks for no certificate",
    );
  }
  return {
    trust: await trustOf(options),
    settings: tlsSettings(options),
    ocsp: options.ocsp,
    ...(serverName === undefined ? {} : { serverName }),
    ...(cert !== undefined && key !== undefined
      ? { identity: await loadClientIdentity({ cert, key }) }
      : {}),
  };
}

/** The same again, as files change; where one is of no use now, what there was `before` stays in use. */
export async function reloadClientTls(
  options: TrustOptions,
  before: ClientTls,
): Promise<ClientTls> {
  try {
    return await loadClientTls(options);
  } catch (error) {
    const { code, message, remedy } = toPlainError(error);
    log.error("certificates not read again: what was there before stays in use", {
      reason: code,
      detail: message,
      remedy,
    });
    return before;
  }
}

/** The file of known hosts; undefined for a user without a home who names none. */
export function knownHostsOf({ knownHosts = defaultKnownHosts() }: TrustOptions) {
  return knownHosts === undefined ? undefined : new KnownHosts(knownHosts);
}

async function trustOf({ ca, pin: pins = [], crl = [] }: TrustOptions): Promise<Trust | undefined> {
  if (ca === undefined && crl.length > 0) {
    throw new UsageError(
      "crl_without_ca",
      "--crl needs --ca",
      "Name the authorities whose lists they are with --ca",
    );
  }
  if (ca === undefined && pins.length === 0) return undefined;
  const { authorities } = await loadTrust(ca);
  const revocationLists = (await Promise.all(crl.map(loadRevocationLists))).flat();
  return { authorities, revocationLists, pins };
}
