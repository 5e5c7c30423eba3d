import * as x509 from "./peculiar_x509.ts";
import { createHash } from "node:crypto";
import { errorText, TlsError } from "../errors.ts";
import { keyName } from "./key_types.ts";
import { pinOf } from "./pin.ts";
import { numberOf } from "./revocation_list.ts";
import { readPem } from "./trust.ts";

/** What a certificate says. */
export interface CertificateReport {
  readonly kind: "certificate";
  readonly file: string;
  readonly notBefore: Date;
  readonly notAfter: Date;
  readonly subject: string;
  readonly issuer: string;
  /** Subject alternative names: `DNS:localhost`, `IP:127.0.0.1`, `URI:spiffe://example.com/x`. */
  readonly names: readonly string[];
  /** Type of the key: `ECDSA P-256`. */
  readonly key: string;
  /** Hexadecimal digits, as of the fingerprint. */
  readonly serialNumber: string;
  /** `authority`, `server`, `client` or the number of another use; none where all are allowed. */
  readonly use: readonly string[];
  /** SHA-256 of the certificate. */
  readonly fingerprint: string;
  /** See {@linkcode pinOf}. */
  readonly pin: string;
}

/** What a list of revoked certificates says. */
export interface RevocationListReport {
  readonly kind: "revocation list";
  readonly file: string;
  readonly thisUpdate: Date;
  /** When the next list is due; a list without such a date is never too old. */
  readonly nextUpdate: Date | null;
  readonly issuer: string;
  readonly number: bigint;
  /** How many certificates it revokes. */
  readonly revoked: number;
}

export type Report = CertificateReport | RevocationListReport;

/**
 * Reads all certificates and lists of revoked certificates of a PEM file.
 *
 * @throws TlsError if there is none, or one that cannot be understood
 */
export async function reportFile(file: string): Promise<Report[]> {
  const text = await readPem(file, "name another file");
  try {
    const reports = x509.PemConverter.decodeWithHeaders(text)
      .flatMap(({ type, rawData }) => reportBlock(file, type, rawData));
    if (reports.length > 0) return reports;
  } catch (error) {
    throw new TlsError(
      "not_understood",
      `What is in ${file} cannot be understood: ${errorText(error)}`,
      `See whether openssl x509 -in ${file} -text understands it`,
      { cause: error },
    );
  }
  throw new TlsError(
    "not_pem",
    `There is no certificate and no list of revoked certificates in PEM form in ${file}`,
    "Name a file that begins with -----BEGIN CERTIFICATE----- or -----BEGIN X509 CRL-----",
  );
}

function reportBlock(file: string, type: string, der: ArrayBuffer): Report[] {
  if (type === "CERTIFICATE") return [reportCertificate(file, new x509.X509Certificate(der))];
  if (type === "X509 CRL") return [reportList(file, new x509.X509Crl(der))];
  return [];
}

function reportCertificate(file: string, certificate: x509.X509Certificate): CertificateReport {
  const { notBefore, notAfter, subject, issuer, publicKey, serialNumber } = certificate;
  const names = certificate.getExtension(x509.SubjectAlternativeNameExtension)?.names.items ?? [];
  return {
    kind: "certificate",
    file,
    notBefore,
    notAfter,
    subject,
    issuer,
    names: names.map(({ type, value }) =>
      `${type === "url" ? "URI" : type.toUpperCase()}:${value}`
    ),
    key: keyName(publicKey.algorithm),
    serialNumber,
    use: usesOf(certificate),
    fingerprint: createHash("sha256").update(new Uint8Array(certificate.rawData)).digest("hex"),
    pin: pinOf(new Uint8Array(publicKey.rawData)),
  };
}

const useNames = new Map<string, string>([
  [x509.ExtendedKeyUsage.serverAuth, "server"],
  [x509.ExtendedKeyUsage.clientAuth, "client"],
]);

function usesOf(certificate: x509.X509Certificate): string[] {
  if (certificate.getExtension(x509.BasicConstraintsExtension)?.ca) return ["authority"];
  const { usages = [] } = certificate.getExtension(x509.ExtendedKeyUsageExtension) ?? {};
  return usages.map((usage) => useNames.get(String(usage)) ?? String(usage));
}

function reportList(file: string, list: x509.X509Crl): RevocationListReport {
  return {
    kind: "revocation list",
    file,
    thisUpdate: list.thisUpdate,
    nextUpdate: list.nextUpdate ?? null,
    issuer: list.issuer,
    number: numberOf(list),
    revoked: list.entries.length,
  };
}
