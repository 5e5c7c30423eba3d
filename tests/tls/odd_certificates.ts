import * as x509 from "../../lib/tls/peculiar_x509.ts";
import type { Identity } from "../../lib/tls/trust.ts";

/** A self-signed certificate for localhost with what a test wants to be wrong with it. */
export async function oddCertificate(
  options: { notBefore?: Date; notAfter?: Date; authority?: boolean },
): Promise<Identity> {
  const { notBefore = daysFromNow(-1), notAfter = daysFromNow(1), authority = false } = options;
  const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
  const keys = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: "01",
    name: "CN=odd",
    notBefore,
    notAfter,
    keys,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.BasicConstraintsExtension(authority, undefined, true),
      new x509.SubjectAlternativeNameExtension([{ type: "dns", value: "localhost" }]),
    ],
  });
  const key = await crypto.subtle.exportKey("pkcs8", keys.privateKey);
  return {
    certificate: certificate.toString("pem"),
    key: x509.PemConverter.encode(key, "PRIVATE KEY"),
  };
}

/** The moment so many days from now. */
export function daysFromNow(days: number): Date {
  return new Date(Date.now() + days * 86_400_000);
}
