import { createPrivateKey, type KeyObject, X509Certificate } from "node:crypto";
import { errorText, TlsError } from "../errors.ts";
import { isPkcs11Uri, parsePkcs11Uri, type Pkcs11Uri, pkcs11UriText } from "./pkcs11_uri.ts";
import { tokenKeyBelongsTo } from "./token_key.ts";

/** A certificate, with those of its authorities below it if needed, and its key: PEM. */
export interface Identity {
  readonly certificate: string;
  /** For a key in a token instead its `pkcs11:` URI, with the PIN. */
  readonly key: string;
}

/** Whose certificates are believed: these authorities (PEM) only, or, for want of any, the system's. */
export interface Trust {
  readonly authorities: readonly string[];
  /** Certificate revocation lists (PEM); with any, each certificate must be covered by one. */
  readonly revocationLists?: readonly string[];
  /**
   * Public keys (`sha256:BASE64`), one of which the peer must have. Without authorities nothing else
   * is asked of its certificate but that it is in its time.
   */
  readonly pins?: readonly string[];
}

/** Whether who has a pinned key is believed whatever its certificate says of it. */
export function believesKeysAlone({ authorities, pins = [] }: Trust): boolean {
  return authorities.length === 0 && pins.length > 0;
}

const makeOne = "Create certificates with verbseal certs init";

/** A certificate and its key, as they are in files and as objects. */
export interface CertificateAndKey {
  readonly identity: Identity;
  /** The certificate, and what follows it in its file: its authorities. */
  readonly certificates: readonly [X509Certificate, ...X509Certificate[]];
  readonly privateKey: KeyObject;
}

/** Paths of PEM files. */
export interface IdentityFiles {
  readonly cert: string;
  /** For a key in a token its `pkcs11:` URI, where that is possible. */
  readonly key: string;
}

/**
 * Reads the certificate and key of a server, and checks all that TLS would later fail on.
 *
 * @throws TlsError that names the file, what is wrong with it and what to do
 */
export function loadServerIdentity(files: IdentityFiles): Promise<Identity> {
  return loadIdentity(files, "serve");
}

/** The same for a client. */
export function loadClientIdentity(files: IdentityFiles): Promise<Identity> {
  return loadIdentity(files, "be a client");
}

async function loadIdentity(files: IdentityFiles, purpose: string): Promise<Identity> {
  const load = isPkcs11Uri(files.key) ? loadTokenPair : loadPair;
  const otherwise = "name other files with --cert and --key";
  const { identity, certificates: [leaf] } = await load(files, otherwise);
  checkLeaf(files.cert, leaf, purpose);
  return identity;
}

/**
 * Reads a certificate and its key, whatever it may be used for and whenever.
 *
 * @param otherwise what the user can do instead of mending the files
 * @throws TlsError that names the file, what is wrong with it and what to do
 */
export async function loadPair(
  files: IdentityFiles,
  otherwise: string,
): Promise<CertificateAndKey> {
  const { text: certificate, certificates } = await readCertificates(files.cert, otherwise);
  const key = await readSecret(files.key, "key", otherwise);
  const privateKey = parseKey(files.key, key);
  if (!certificates[0].checkPrivateKey(privateKey)) {
    throw keyMismatch(`in ${files.key}`, files.cert, otherwise);
  }
  return { identity: { certificate, key }, certificates, privateKey };
}

/** The same for a key in a token, which stays there. */
async function loadTokenPair(
  files: IdentityFiles,
  otherwise: string,
): Promise<Omit<CertificateAndKey, "privateKey">> {
  const { text: certificate, certificates } = await readCertificates(files.cert, otherwise);
  const uri = parsePkcs11Uri(files.key);
  const key = pkcs11UriText({ ...uri, pin: await readPin(uri) });
  if (!tokenKeyBelongsTo(key, certificates[0].raw)) {
    throw keyMismatch(uri.name, files.cert, otherwise);
  }
  return { identity: { certificate, key }, certificates };
}

function keyMismatch(key: string, certificateFile: string, otherwise: string): TlsError {
  return new TlsError(
    "key_mismatch",
    `The key ${key} does not belong to the certificate in ${certificateFile}`,
    `Bring together a certificate and its own key, or ${otherwise}`,
  );
}

async function readPin({ name, pin, pinFile }: Pkcs11Uri): Promise<string> {
  if (pin !== undefined) return pin;
  const text = pinFile && await readSecret(pinFile, "PIN", "name another file as pin-source");
  const line = text?.replace(/\r?\n$/, "");
  if (line) return line;
  throw new TlsError(
    "pin_missing",
    `There is no PIN for the token of ${name}${pinFile === undefined ? "" : ` in ${pinFile}`}`,
    "Add ?pin-source=file:/PATH to the pkcs11: URI, and write the PIN to that file",
  );
}

/**
 * Reads the authorities to believe.
 *
 * @param file path of a PEM file with one or more certificates; without it, the authorities that
 * the system trusts
 * @param option that names the file
 * @throws TlsError that names the file, what is wrong with it and what to do
 */
export async function loadTrust(file?: string, option = "--ca"): Promise<Trust> {
  if (file === undefined) return { authorities: [] };
  const { certificates } = await readCertificates(file, `name another file with ${option}`);
  const problems = certificates.map(validityProblem);
  if (problems[0] !== undefined && problems.every((problem) => problem !== undefined)) {
    throw new TlsError(
      "authority_not_valid",
      `The authority's certificate in ${file} ${problems[0]}`,
      `Name a valid one with ${option}, and check this machine's clock. ${makeOne}`,
    );
  }
  return { authorities: certificates.map((certificate) => certificate.toString()) };
}

/**
 * Reads the certificates of a PEM file, at least one.
 *
 * @param otherwise what the user can do instead of mending the file
 * @throws TlsError that names the file, what is wrong with it and what to do
 */
export async function readCertificates(
  path: string,
  otherwise: string,
): Promise<{ text: string; certificates: [X509Certificate, ...X509Certificate[]] }> {
  const text = await readPem(path, otherwise);
  return { text, certificates: parseCertificates(path, text) };
}

/**
 * Reads a file that is not secret.
 *
 * @param otherwise what the user can do instead of mending the file
 * @throws TlsError that names the file, what is wrong with it and what to do
 */
export async function readPem(path: string, otherwise: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    throw unreadable(path, otherwise, error);
  }
}

/** The mode is that of the opened file, so it cannot be another's. */
async function readSecret(path: string, what: "key" | "PIN", otherwise: string): Promise<string> {
  try {
    using file = await Deno.open(path);
    const { mode } = await file.stat();
    if (mode !== null && (mode & 0o007) !== 0) {
      throw new TlsError(
        `${what.toLowerCase()}_exposed`,
        `The ${what} ${path} is open to every user of this machine (mode ${
          (mode & 0o777).toString(8)
        })`,
        `Close it with chmod 600 ${path}, and replace it if somebody may have read it`,
      );
    }
    return await new Response(file.readable).text();
  } catch (error) {
    throw error instanceof TlsError ? error : unreadable(path, otherwise, error);
  }
}

/** A file could not be read, and why. */
export function unreadable(path: string, otherwise: string, error: unknown): TlsError {
  if (error instanceof Deno.errors.NotFound) {
    return new TlsError(
      "file_missing",
      `There is no file ${path}`,
      `${makeOne}, or ${otherwise}`,
      { cause: error },
    );
  }
  return new TlsError(
    "file_unreadable",
    `The file ${path} cannot be read: ${errorText(error)}`,
    `Let this user read it, or ${otherwise}`,
    { cause: error },
  );
}

function parseCertificates(path: string, text: string): [X509Certificate, ...X509Certificate[]] {
  const blocks = text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  try {
    const [first, ...others] = blocks.map((block) => new X509Certificate(block));
    if (first !== undefined) return [first, ...others];
  } catch (error) {
    throw notPem(path, "certificate", error);
  }
  throw notPem(path, "certificate");
}

function parseKey(path: string, text: string): KeyObject {
  if (text.includes("ENCRYPTED")) {
    throw new TlsError(
      "key_encrypted",
      `The key in ${path} is locked with a passphrase`,
      `Unlock it into a file of mode 600 with openssl pkey -in ${path}`,
    );
  }
  try {
    return createPrivateKey(text);
  } catch (error) {
    throw notPem(path, "private key", error);
  }
}

function notPem(path: string, what: string, cause?: unknown): TlsError {
  return new TlsError(
    "not_pem",
    `There is no ${what} in PEM form in ${path}`,
    `Name a file that begins with -----BEGIN ${what.toUpperCase()}-----. ${makeOne}`,
    { cause },
  );
}

function checkLeaf(path: string, certificate: X509Certificate, purpose: string): void {
  const problem = validityProblem(certificate);
  if (problem !== undefined) {
    throw new TlsError(
      "certificate_not_valid",
      `The certificate in ${path} ${problem}`,
      `Renew it, and check this machine's clock. ${makeOne}`,
    );
  }
  if (certificate.ca) {
    throw new TlsError(
      "authority_as_leaf",
      `The certificate in ${path} is an authority's, which may sign others but not ${purpose}`,
      `Name one that it has signed with --cert. ${makeOne}`,
    );
  }
}

/** What is wrong with a certificate's dates now, if anything. */
function validityProblem({ validFrom, validTo }: X509Certificate): string | undefined {
  const now = Date.now();
  if (now < Date.parse(validFrom)) return `is not valid before ${validFrom}`;
  if (now > Date.parse(validTo)) return `expired on ${validTo}`;
  return undefined;
}
