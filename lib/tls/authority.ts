import * as x509 from "./peculiar_x509.ts";
import type { X509Certificate } from "node:crypto";
import { TlsError } from "../errors.ts";
import { generateKeys, type KeyType } from "./key_types.ts";
import { type CertificateAndKey, type Identity, loadPair, readCertificates } from "./trust.ts";

/** Who signs: a certificate and its private key. */
export interface Authority {
  readonly certificate: x509.X509Certificate;
  readonly signingKey: CryptoKey;
}

const authorityDays = 3650;
/** Of signatures by keys that leave the choice; Ed25519 has its own. */
const hash = { hash: "SHA-256" };
const { keyCertSign, cRLSign } = x509.KeyUsageFlags;

/** Creates an authority, valid for ten years, that signs leaves only; with it, its files' content. */
export async function createAuthority(
  keyType: KeyType,
): Promise<{ authority: Authority; identity: Identity }> {
  const keys = await generateKeys(keyType);
  const serialNumber = randomSerial();
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber,
    // Two authorities of one name would make "unknown issuer" read as "bad signature".
    name: [{ CN: [`Verbseal development CA ${serialNumber.slice(-8)}`] }],
    ...validity(authorityDays),
    keys,
    signingAlgorithm: signingAlgorithm(keys.privateKey),
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(keyCertSign | cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return {
    authority: { certificate, signingKey: keys.privateKey },
    identity: { certificate: pem(certificate), key: await keyPem(keys.privateKey) },
  };
}

/**
 * Reads the authority of a folder: `ca.pem` and `ca.key`.
 *
 * @throws TlsError if a file is missing or no such thing, the key is open to others, or the
 * certificate is no authority's or has expired
 */
export async function loadAuthority(directory: string): Promise<Authority> {
  const file = `${directory}/ca.pem`;
  const otherwise = "name the authority's folder with --directory";
  const pair = await loadPair({ cert: file, key: `${directory}/ca.key` }, otherwise);
  if (!pair.certificates[0].ca) {
    throw new TlsError(
      "not_an_authority",
      `The certificate in ${file} is no authority's`,
      `Create an authority with verbseal certs init, or ${otherwise}`,
    );
  }
  const certificate = new x509.X509Certificate(pair.certificates[0].toString());
  if (certificate.notAfter.getTime() < Date.now()) {
    throw new TlsError(
      "authority_not_valid",
      `The authority's certificate in ${file} expired on ${certificate.notAfter.toISOString()}`,
      "Create a new authority with verbseal certs init, and give its ca.pem to the other side",
    );
  }
  return { certificate, signingKey: await signingKeyOf(pair, certificate, file) };
}

async function signingKeyOf(
  { privateKey }: CertificateAndKey,
  { publicKey }: x509.X509Certificate,
  file: string,
): Promise<CryptoKey> {
  const der = privateKey.export({ type: "pkcs8", format: "der" });
  try {
    const algorithm = { ...hash, ...publicKey.algorithm };
    return await crypto.subtle.importKey("pkcs8", Uint8Array.from(der), algorithm, false, ["sign"]);
  } catch (error) {
    throw new TlsError(
      "key_not_usable",
      `The key of the authority in ${file} is of a type that cannot sign here`,
      "Use an authority with an ECDSA P-256 or P-384, an Ed25519 or an RSA key",
      { cause: error },
    );
  }
}

/** Reads a certificate that the authority has signed; otherwise as {@linkcode checkIssued}. */
export async function loadIssued(
  authority: Authority,
  path: string,
): Promise<x509.X509Certificate> {
  const { certificates: [first] } = await readCertificates(path, "name another file");
  return await checkIssued(authority, path, first);
}

/**
 * The certificate, which the authority has signed.
 *
 * @param path where it comes from
 * @throws TlsError if it is another's, or the authority's own
 */
export async function checkIssued(
  authority: Authority,
  path: string,
  parsed: X509Certificate,
): Promise<x509.X509Certificate> {
  const certificate = new x509.X509Certificate(parsed.toString());
  const issuer = authority.certificate;
  if (certificate.serialNumber === issuer.serialNumber && certificate.subject === issuer.subject) {
    throw new TlsError(
      "authority_as_leaf",
      `The certificate in ${path} is the authority's own`,
      "Name one that it has signed; verbseal certs init makes a new authority",
    );
  }
  const named = certificate.issuer === issuer.subject;
  if (named && await certificate.verify({ publicKey: issuer.publicKey, signatureOnly: true })) {
    return certificate;
  }
  throw new TlsError(
    "other_authority",
    `The certificate in ${path} is not signed by ${issuer.subject}, but by ${certificate.issuer}`,
    "Name the folder of its authority with --directory",
  );
}

/** Signs a certificate with a new serial number, from now on. */
export async function signCertificate(
  { certificate: issuer, signingKey }: Authority,
  { subject, publicKey, days, extensions }: {
    subject: x509.Name;
    publicKey: x509.PublicKey;
    days: number;
    /** All but the identifiers of the two keys. */
    extensions: readonly x509.Extension[];
  },
): Promise<x509.X509Certificate> {
  return await x509.X509CertificateGenerator.create({
    serialNumber: randomSerial(),
    subject,
    issuer: issuer.subjectName,
    ...validity(days, issuer.notAfter),
    publicKey,
    signingKey,
    signingAlgorithm: signingAlgorithm(signingKey),
    extensions: [
      ...extensions,
      await x509.SubjectKeyIdentifierExtension.create(publicKey),
      await authorityKeyIdentifier(issuer),
    ],
  });
}

/** Which of the issuer's keys has signed (RFC 5280, section 4.2.1.1): as its certificate calls it. */
export async function authorityKeyIdentifier(
  issuer: x509.X509Certificate,
): Promise<x509.AuthorityKeyIdentifierExtension> {
  const own = issuer.getExtension(x509.SubjectKeyIdentifierExtension);
  return own === null
    ? await x509.AuthorityKeyIdentifierExtension.create(issuer.publicKey)
    : new x509.AuthorityKeyIdentifierExtension(own.keyId);
}

/** The algorithm that a key signs by. */
export function signingAlgorithm(key: CryptoKey): Algorithm {
  return { ...hash, ...key.algorithm };
}

/** A certificate as files have it. */
export function pem(certificate: x509.X509Certificate): string {
  return certificate.toString("pem") + "\n";
}

/** A private key as files have it: PKCS #8. */
export async function keyPem(key: CryptoKey): Promise<string> {
  return x509.PemConverter.encode(await crypto.subtle.exportKey("pkcs8", key), "PRIVATE KEY") +
    "\n";
}

/** From a little earlier than now, as the other side's clock may be slow. */
function validity(days: number, latest?: Date): { notBefore: Date; notAfter: Date } {
  const minute = 60_000;
  const now = Date.now();
  const end = now + days * 24 * 60 * minute;
  return {
    notBefore: new Date(now - 5 * minute),
    notAfter: new Date(Math.min(end, latest?.getTime() ?? end)),
  };
}

/** 128 random bits; the first two are fixed so that the number is positive and of full length. */
function randomSerial(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[0] = bytes[0]! & 0x3f | 0x40;
  return bytes.toHex();
}
