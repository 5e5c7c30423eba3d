import * as x509 from "./peculiar_x509.ts";
import { isIP } from "node:net";
import { type Authority, keyPem, pem, signCertificate } from "./authority.ts";
import { generateKeys, type KeyType } from "./key_types.ts";
import type { Identity } from "./trust.ts";

/** What a certificate is to say. */
export interface CertificateRequest {
  readonly commonName: string;
  readonly organization?: string;
  readonly organizationalUnit?: string;
  readonly use: "server" | "client";
  /** Names and addresses that a server is reached by. */
  readonly hosts?: readonly string[];
  /** Identity as SPIFFE writes it. */
  readonly uri?: string;
  /** Where its status can be asked for (OCSP); its authority's certificate is put beside it then. */
  readonly ocspUrl?: string;
  /** Where the list of revoked certificates is published. */
  readonly crlUrl?: string;
  /** Validity from now on; it ends with the authority's at the latest. */
  readonly days: number;
  readonly keyType: KeyType;
}

/**
 * Issues a certificate for a new key. Extensions are those that RFC 5280 asks for (section 4.2).
 */
export async function issueCertificate(
  authority: Authority,
  request: CertificateRequest,
): Promise<Identity> {
  const { commonName, organization, organizationalUnit, days } = request;
  const keys = await generateKeys(request.keyType);
  const certificate = await signCertificate(authority, {
    subject: new x509.Name([
      ...(organization ? [{ O: [{ utf8String: organization }] }] : []),
      ...(organizationalUnit ? [{ OU: [{ utf8String: organizationalUnit }] }] : []),
      { CN: [{ utf8String: commonName }] },
    ]),
    publicKey: await x509.PublicKey.create(keys.publicKey),
    days,
    extensions: requestedExtensions(request),
  });
  // Who names a responder staples, and asks about the certificate by that of its authority.
  const issuer = request.ocspUrl === undefined ? "" : pem(authority.certificate);
  return { certificate: pem(certificate) + issuer, key: await keyPem(keys.privateKey) };
}

function requestedExtensions({ use, hosts = [], uri, ocspUrl, crlUrl }: CertificateRequest) {
  const names: x509.JsonGeneralNames = [
    ...hosts.map((value) => ({ type: isIP(value) === 0 ? "dns" as const : "ip" as const, value })),
    ...(uri === undefined ? [] : [{ type: "url" as const, value: uri }]),
  ];
  return [
    new x509.BasicConstraintsExtension(false, undefined, true),
    new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
    new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage[`${use}Auth`]]),
    ...(names.length > 0 ? [new x509.SubjectAlternativeNameExtension(names)] : []),
    ...(ocspUrl === undefined ? [] : [new x509.AuthorityInfoAccessExtension({ ocsp: ocspUrl })]),
    ...(crlUrl === undefined ? [] : [new x509.CRLDistributionPointsExtension([crlUrl])]),
  ];
}
