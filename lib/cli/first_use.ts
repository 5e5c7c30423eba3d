import { X509Certificate } from "node:crypto";
import { TlsError } from "../errors.ts";
import { logger } from "../telemetry/log.ts";
import { printable } from "../telemetry/printable.ts";
import { writeText } from "../telemetry/streams.ts";
import { type PeerKey, peerKey } from "../tls/backend.ts";
import { HostKeyChangedError, hostText, type KnownHosts } from "../tls/known_hosts.ts";
import { UnknownKeyError } from "../tls/openssl_verification.ts";
import { peerIdentity } from "../tls/peer_identity.ts";
import type { Trust } from "../tls/trust.ts";
import { confirmKey } from "./confirm_key.ts";

const log = logger("client");

/**
 * Failures of a server whose certificate nobody vouches for. One that an authority has signed for
 * another name is none: that says who it is.
 */
const unvouched: readonly string[] = ["unknown_issuer", "authority_as_leaf", "certificate_bad"];

/** How a server becomes known by its key. */
export interface FirstUse {
  /** How to reach the server, without showing it who asks. */
  readonly dialling: Parameters<typeof peerKey>[0];
  readonly knownHosts: KnownHosts | undefined;
  /** Adds the key of a new server without asking. */
  readonly trustNew: boolean;
  /** A person can be asked. */
  readonly interactive: boolean;
}

/**
 * Opens something with a server by trust on first use: one that is known must have a key that it is
 * known by; of one that is not the system's authorities decide, and where they do not vouch for it,
 * the user.
 *
 * @throws HostKeyChangedError after a warning on standard error; TlsError when the user, or nobody,
 * trusts the server; what `open` throws
 */
export async function openOnFirstUse<T>(
  open: (trust: Trust) => Promise<T>,
  use: FirstUse,
): Promise<T> {
  try {
    return await openKnown(open, use) ?? await openNew(open, use);
  } catch (error) {
    if (error instanceof HostKeyChangedError) warnOfChange(error);
    throw error;
  }
}

/** @returns undefined if the server is not known */
async function openKnown<T>(
  open: (trust: Trust) => Promise<T>,
  { dialling, knownHosts }: FirstUse,
): Promise<T | undefined> {
  const known = await knownHosts?.find(dialling);
  if (knownHosts === undefined || known === undefined || known.length === 0) return undefined;
  try {
    return await open(pinned(...known.map(({ pin }) => pin)));
  } catch (error) {
    if (!(error instanceof UnknownKeyError)) throw error;
    throw new HostKeyChangedError(hostText(dialling), error.pin, knownHosts.path, known);
  }
}

async function openNew<T>(open: (trust: Trust) => Promise<T>, use: FirstUse): Promise<T> {
  try {
    return await open({ authorities: [] });
  } catch (error) {
    if (!(error instanceof TlsError) || !unvouched.includes(error.code)) throw error;
    return await open(pinned(await learnPin(use, error)));
  }
}

function pinned(...pins: string[]): Trust {
  return { authorities: [], pins };
}

/** The pin of a new server's key, once it is among the known ones. */
async function learnPin(use: FirstUse, refusal: TlsError): Promise<string> {
  const { dialling, knownHosts, trustNew, interactive } = use;
  const key = await peerKey(dialling);
  const server = hostText(dialling);
  if (!trustNew && !interactive) throw unknownKey(server, key, refusal);
  if (knownHosts === undefined) throw noKnownHosts(server);
  if (!trustNew && !await confirmKey(await question(server, key), key.pin, dialling.signal)) {
    throw notAccepted(server);
  }
  await knownHosts.add(dialling, key.pin);
  const level = trustNew ? "warning" : "debug";
  log[level]("a new server is known from now on", { server, pin: key.pin, file: knownHosts.path });
  return key.pin;
}

async function question(server: string, { pin, certificate }: PeerKey): Promise<string> {
  const { subject } = await peerIdentity(certificate);
  const { validFrom, validTo } = new X509Certificate(certificate);
  const day = (date: string) => new Date(date).toISOString().slice(0, 10);
  return `${server} is new, and the authorities that this system trusts do not vouch for it.
  key      ${pin}
  subject  ${printable(subject)}
  valid    ${day(validFrom)} to ${day(validTo)}
Compare the key with what verbseal certs pin prints at the server.
`;
}

function warnOfChange({ host, pin, path, known }: HostKeyChangedError): void {
  const rule = "@".repeat(72);
  const lines = known.map((each) => `    ${each.pin} (line ${each.line} of ${path})`).join("\n");
  writeText(
    Deno.stderr,
    `${rule}
  WARNING: THE KEY OF ${host} HAS CHANGED
${rule}
  Someone may stand between you and the server, or its key was changed.
  It was known by
${lines}
  and has now
    ${pin}
  No session was opened with it.
`,
  );
}

function unknownKey(server: string, { pin }: PeerKey, cause: TlsError): TlsError {
  return new TlsError(
    "host_key_unknown",
    `The authorities that this system trusts do not vouch for ${server}, which is not known by ` +
      `its key ${pin} either`,
    `If its operator confirms the key, give --pin ${pin} or once --trust-new; or name its ` +
      "authority with --ca",
    { cause },
  );
}

function notAccepted(server: string): TlsError {
  return new TlsError(
    "host_key_not_accepted",
    `The key of ${server} was not accepted`,
    "Ask the server's operator for the key that verbseal certs pin prints there",
  );
}

function noKnownHosts(server: string): TlsError {
  return new TlsError(
    "known_hosts_missing",
    `There is no place to keep the key of ${server}, as this user has no home`,
    "Name a file with --known-hosts, or set HOME",
  );
}
