import { libcrypto } from "../../ffi/libcrypto.ts";
import { TlsError } from "../errors.ts";
import { unreadable } from "./trust.ts";
import { type CryptoObject, decodePem, fromDer, timeOf } from "./x509.ts";

const otherwise = "name another file with --crl";

/**
 * Reads lists of revoked certificates (CRLs, RFC 5280, section 5), and checks all that would later
 * fail every handshake. Who has signed them is checked there.
 *
 * @param path of a PEM file with one or more, or of one list in DER, as authorities publish it
 * @returns PEM of each
 * @throws TlsError that names the file, what is wrong with it and what to do
 */
export async function loadRevocationLists(path: string): Promise<string[]> {
  const lists = listsOf(path, await readBytes(path));
  for (const list of lists) checkList(path, list);
  return lists.map(toPem);
}

async function readBytes(path: string): Promise<Uint8Array> {
  try {
    return await Deno.readFile(path);
  } catch (error) {
    throw unreadable(path, otherwise, error);
  }
}

/** DER of each list. */
function listsOf(path: string, bytes: Uint8Array): Uint8Array[] {
  const sequence = 0x30;
  if (bytes[0] === sequence) return [bytes];
  try {
    const lists = decodePem(new TextDecoder().decode(bytes), "X509 CRL");
    if (lists.length > 0) return lists;
  } catch (error) {
    throw noList(path, error);
  }
  throw noList(path);
}

function checkList(path: string, der: Uint8Array): void {
  const { d2i_X509_CRL, X509_CRL_free } = libcrypto();
  const parsed = fromDer(der, d2i_X509_CRL, X509_CRL_free);
  if (!parsed) throw noList(path);
  using list = parsed;
  const problem = validityProblem(list);
  if (problem === undefined) return;
  throw new TlsError(
    "revocation_list_not_valid",
    `A list of revoked certificates in ${path} ${problem}`,
    "Get the authority's latest, or make it with verbseal certs revoke, and check this " +
      "machine's clock",
  );
}

/**
 * When the first of these lists expires, in milliseconds since 1970; Infinity if none does.
 *
 * @param lists PEM, as {@linkcode loadRevocationLists} gives them
 */
export function firstExpiry(lists: readonly string[]): number {
  return Math.min(
    Infinity,
    ...lists.flatMap((pem) => decodePem(pem, "X509 CRL")).map((der) => {
      // Where there are no lists, libcrypto may be missing.
      const { d2i_X509_CRL, X509_CRL_free } = libcrypto();
      using list = fromDer(der, d2i_X509_CRL, X509_CRL_free);
      return (list && endOf(list)) ?? Infinity;
    }),
  );
}

/** Infinity without one; undefined if it is none. */
function endOf(list: CryptoObject): number | undefined {
  const end = libcrypto().X509_CRL_get0_nextUpdate(list.pointer);
  return end === null ? Infinity : timeOf(end);
}

/** What is wrong with a list's dates now, if anything. */
function validityProblem(list: CryptoObject): string | undefined {
  const begin = timeOf(libcrypto().X509_CRL_get0_lastUpdate(list.pointer));
  const until = endOf(list);
  if (begin === undefined || until === undefined) return "has a date that is none";
  const now = Date.now();
  if (now < begin) return `is not valid before ${new Date(begin).toISOString()}`;
  if (now > until) return `expired on ${new Date(until).toISOString()}`;
  return undefined;
}

function toPem(der: Uint8Array): string {
  const lines = der.toBase64().replace(/.{64}(?=.)/g, "$&\n");
  return `-----BEGIN X509 CRL-----\n${lines}\n-----END X509 CRL-----\n`;
}

function noList(path: string, cause?: unknown): TlsError {
  return new TlsError(
    "not_a_revocation_list",
    `There is no list of revoked certificates in ${path}`,
    `Name a file that begins with -----BEGIN X509 CRL-----, or ${otherwise}`,
    { cause },
  );
}
