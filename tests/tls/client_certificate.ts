import * as x509 from "../../lib/tls/peculiar_x509.ts";
import { type Authority, keyPem, pem, signCertificate } from "../../lib/tls/authority.ts";
import type { Identity } from "../../lib/tls/trust.ts";
import { daysFromNow } from "./odd_certificates.ts";

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
const keys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);

/** What a test wants to stand in a client's certificate. */
export interface ClientCertificateOptions {
  /** Types and values of the subject, each an RDN of its own, in the certificate's order. */
  readonly subject?: readonly (readonly [type: string, value: string])[];
  readonly names?: x509.JsonGeneralNames;
  /** Instead of `names`: the value of their extension, DER. */
  readonly rawNames?: ArrayBuffer;
  readonly serial?: string;
}

/** A self-signed certificate, DER. Values are what they are: nothing in them is parsed. */
export async function clientCertificate(
  options: ClientCertificateOptions = {},
): Promise<Uint8Array> {
  const { subject = [["CN", "client"]], names, rawNames } = options;
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: options.serial ?? "01",
    name: nameOf(subject),
    notBefore: daysFromNow(-2),
    notAfter: daysFromNow(1),
    keys,
    signingAlgorithm: algorithm,
    extensions: [
      ...(names ? [new x509.SubjectAlternativeNameExtension(names)] : []),
      ...(rawNames ? [new x509.Extension("2.5.29.17", false, rawNames)] : []),
    ],
  });
  return new Uint8Array(certificate.rawData);
}

/** A certificate that an authority has signed for a client of this subject, with its key. */
export async function clientIdentity(
  authority: Authority,
  options: Pick<ClientCertificateOptions, "subject" | "names"> & { readonly days?: number } = {},
): Promise<Identity> {
  const { subject = [["CN", "client"]], names, days = 1 } = options;
  const certificate = await signCertificate(authority, {
    subject: nameOf(subject),
    publicKey: await x509.PublicKey.create(keys.publicKey),
    days,
    extensions: [
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.clientAuth]),
      ...(names ? [new x509.SubjectAlternativeNameExtension(names)] : []),
    ],
  });
  return { certificate: pem(certificate), key: await keyPem(keys.privateKey) };
}

function nameOf(subject: NonNullable<ClientCertificateOptions["subject"]>): x509.Name {
  return new x509.Name(subject.map(([type, value]) => ({ [type]: [{ utf8String: value }] })));
}
