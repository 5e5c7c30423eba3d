import * as x509 from "./peculiar_x509.ts";
import { fromBER, Integer } from "asn1js";
import { TlsError } from "../errors.ts";
import { exists } from "../exists.ts";
import { type Authority, authorityKeyIdentifier, signingAlgorithm } from "./authority.ts";
import { publicMode, writeFiles } from "./pem_files.ts";
import { readPem } from "./trust.ts";

/** Why a certificate is revoked (RFC 5280, section 5.3.1). */
export type RevocationReason = keyof typeof x509.X509CrlReason;

export interface Revocation {
  /** Hexadecimal digits. */
  readonly serialNumber: string;
  readonly reason: RevocationReason;
}

/** How long a list is good for, unless told, in days. */
const usualDays = 30;
const crlNumber = "2.5.29.20";

/**
 * Signs a list of revoked certificates (CRL) with the extensions that RFC 5280 asks for (section 5.2).
 *
 * @param options.number more than that of the list before
 * @param options.days from now until the next list is due; 30 unless told
 */
export async function signRevocationList(
  { certificate, signingKey }: Authority,
  { number, entries, days = usualDays }: {
    number: bigint;
    entries: readonly x509.X509CrlEntryParams[];
    days?: number | undefined;
  },
): Promise<x509.X509Crl> {
  const minute = 60_000;
  const now = Date.now();
  return await x509.X509CrlGenerator.create({
    issuer: certificate.subjectName,
    // A little earlier, as the other side's clock may be slow.
    thisUpdate: new Date(now - 5 * minute),
    nextUpdate: new Date(now + days * 24 * 60 * minute),
    entries: [...entries],
    signingKey,
    signingAlgorithm: signingAlgorithm(signingKey),
    extensions: [
      await authorityKeyIdentifier(certificate),
      new x509.Extension(crlNumber, false, Integer.fromBigInt(number).toBER()),
    ],
  });
}

/** A list as files have it. */
export function crlPem(list: x509.X509Crl): string {
  return x509.PemConverter.encode(list.rawData, "X509 CRL") + "\n";
}

/**
 * Adds to the authority's list, `ca.crl` in its folder, and signs it anew, or makes the first one.
 * Certificates that it has already keep their date and reason.
 *
 * @param options.days from now until the next list is due; 30 unless told
 * @returns the list, and which serial numbers it did not have before
 * @throws TlsError if there is a file of that name that is no list of this authority
 */
export async function extendRevocationList(
  authority: Authority,
  directory: string,
  revocations: readonly Revocation[],
  { days }: { days?: number | undefined },
): Promise<{ path: string; list: x509.X509Crl; added: string[] }> {
  // Of two that do this at once, neither may lose what the other has revoked.
  using lock = await Deno.open(`${directory}/ca.key`);
  await lock.lock(true);
  const path = `${directory}/ca.crl`;
  const before = await exists(path) ? await loadRevocationList(authority, path) : undefined;
  const added = newEntries(before, revocations);
  const list = await signRevocationList(authority, {
    number: before === undefined ? 1n : numberOf(before) + 1n,
    entries: [...before?.entries.map(oldEntry) ?? [], ...added],
    days,
  });
  const file = { path, text: crlPem(list), mode: publicMode };
  await writeFiles(directory, [file], { overwrite: true });
  return { path, list, added: added.map(({ serialNumber }) => serialNumber) };
}

function oldEntry({ serialNumber, revocationDate, extensions }: x509.X509CrlEntry) {
  return extensions.length === 0
    ? unexplained(serialNumber, revocationDate)
    : { serialNumber, revocationDate, extensions: [...extensions] };
}

function newEntries(
  before: x509.X509Crl | undefined,
  revocations: readonly Revocation[],
): x509.X509CrlEntryParams[] {
  const now = new Date();
  now.setMilliseconds(0);
  return [...new Map(revocations.map((each) => [each.serialNumber, each.reason]))]
    .filter(([serialNumber]) => !before?.findRevoked(serialNumber))
    .map(([serialNumber, reason]) =>
      reason === "unspecified"
        ? unexplained(serialNumber, now)
        : { serialNumber, revocationDate: now, reason: x509.X509CrlReason[reason] }
    );
}

/**
 * A list says nothing rather than "unspecified" (RFC 5280, section 5.3.1), but the library writes
 * an empty sequence of extensions, which is forbidden, where there is none. So the entry says since
 * when the certificate is invalid.
 */
function unexplained(serialNumber: string, revocationDate: Date): x509.X509CrlEntryParams {
  return { serialNumber, revocationDate, invalidity: revocationDate };
}

/**
 * Reads the authority's list.
 *
 * @throws TlsError if there is none in the file, or one that another authority has signed
 */
async function loadRevocationList(authority: Authority, path: string): Promise<x509.X509Crl> {
  const list = parseRevocationList(path, await readPem(path, "name another folder"));
  if (await list.verify({ publicKey: authority.certificate.publicKey })) return list;
  throw new TlsError(
    "other_authority",
    `The list of revoked certificates in ${path} is not signed by the authority beside it`,
    "Move it away if it is another authority's, or name that one's folder with --directory",
  );
}

/**
 * The first list of revoked certificates in a PEM file's text.
 *
 * @throws TlsError if there is none
 */
export function parseRevocationList(path: string, text: string): x509.X509Crl {
  try {
    const block = x509.PemConverter.decodeWithHeaders(text).find(({ type }) => type === "X509 CRL");
    if (block !== undefined) return new x509.X509Crl(block.rawData);
  } catch (error) {
    throw noList(path, error);
  }
  throw noList(path);
}

function noList(path: string, cause?: unknown): TlsError {
  return new TlsError(
    "not_pem",
    `There is no list of revoked certificates in PEM form in ${path}`,
    "Name a file that begins with -----BEGIN X509 CRL-----, or move this one away and make a " +
      "new list with verbseal certs revoke",
    { cause },
  );
}

/** The number of a list (RFC 5280, section 5.2.3); 0 for one without. */
export function numberOf(list: x509.X509Crl): bigint {
  const extension = list.getExtension(crlNumber);
  if (extension === null) return 0n;
  const { result } = fromBER(extension.value);
  return result instanceof Integer ? result.toBigInt() : 0n;
}
