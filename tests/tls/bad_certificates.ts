/** Authorities and certificates that are wrong in one thing, each in its own. */
import * as x509 from "../../lib/tls/peculiar_x509.ts";
import { type Authority, keyPem, pem } from "../../lib/tls/authority.ts";
import { crlPem, signRevocationList } from "../../lib/tls/revocation_list.ts";
import type { Identity } from "../../lib/tls/trust.ts";
import { daysFromNow } from "./odd_certificates.ts";

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
const { digitalSignature, dataEncipherment, keyCertSign, cRLSign } = x509.KeyUsageFlags;

/** What a certificate is for. */
export type Use = "server" | "client";

/** What stands in a certificate; what is not told is as it should be. */
export interface CertificateContent {
  readonly use: Use;
  readonly hosts?: readonly string[];
  readonly notBefore?: Date;
  readonly notAfter?: Date;
  /** Its key may encipher data only, and not sign. */
  readonly enciphersOnly?: boolean;
  /** It is an authority's. */
  readonly authority?: boolean;
  /** It has an extension that nobody knows and that must not be ignored. */
  readonly unknownExtension?: boolean;
}

const usualHosts = ["127.0.0.1", "localhost"];
let serialNumber = 1;

/** An authority, at the top or below another. */
export class TestAuthority {
  private constructor(
    readonly authority: Authority,
    /** Certificates of this one and those above it but the topmost, PEM. */
    private readonly chain: readonly string[],
  ) {}

  /** @param pathLength how many authorities may stand below it; as many as there are unless told */
  static async root(pathLength?: number): Promise<TestAuthority> {
    const keys = await generateKeys();
    const certificate = await x509.X509CertificateGenerator.createSelfSigned({
      ...common(`CN=Root ${serialNumber}`),
      keys,
      extensions: await authorityExtensions(keys, pathLength),
    });
    return new TestAuthority({ certificate, signingKey: keys.privateKey }, []);
  }

  /** PEM. */
  get certificate(): string {
    return pem(this.authority.certificate);
  }

  /**
   * An authority below this one.
   *
   * @param pathLength as for {@linkcode root}
   */
  async below(
    pathLength?: number,
    validity: Pick<CertificateContent, "notAfter"> = {},
  ): Promise<TestAuthority> {
    const keys = await generateKeys();
    const certificate = await this.#sign(
      `CN=Authority ${serialNumber}`,
      keys,
      await authorityExtensions(keys, pathLength),
      validity,
    );
    return new TestAuthority(
      { certificate, signingKey: keys.privateKey },
      [pem(certificate), ...this.chain],
    );
  }

  /** An authority so many below this one. */
  async farBelow(count: number): Promise<TestAuthority> {
    return count === 0 ? this : await (await this.below()).farBelow(count - 1);
  }

  /** A certificate with those of the authorities below the topmost, and its key. */
  async issue(content: CertificateContent): Promise<Identity> {
    const keys = await generateKeys();
    const certificate = await this.#sign(
      `CN=${content.use} ${serialNumber}`,
      keys,
      leafExtensions(content),
      content,
    );
    return {
      certificate: [pem(certificate), ...this.chain].join(""),
      key: await keyPem(keys.privateKey),
    };
  }

  /**
   * What it has revoked, PEM.
   *
   * @param options.days from now until the next list is due
   */
  async revocationList(
    revoked: readonly Identity[] = [],
    { days = 1 }: { days?: number } = {},
  ): Promise<string> {
    const entries = revoked.map(({ certificate }) => ({
      serialNumber: new x509.X509Certificate(certificate).serialNumber,
      revocationDate: daysFromNow(-1),
      reason: x509.X509CrlReason.keyCompromise,
    }));
    return crlPem(await signRevocationList(this.authority, { number: 1n, entries, days }));
  }

  #sign(
    subject: string,
    keys: CryptoKeyPair,
    extensions: x509.Extension[],
    validity: Pick<CertificateContent, "notBefore" | "notAfter"> = {},
  ): Promise<x509.X509Certificate> {
    return x509.X509CertificateGenerator.create({
      ...common(subject, validity),
      subject,
      issuer: this.authority.certificate.subject,
      publicKey: keys.publicKey,
      signingKey: this.authority.signingKey,
      extensions,
    });
  }
}

/** A certificate that nobody but its owner has signed. */
export async function selfSigned(content: CertificateContent): Promise<Identity> {
  const keys = await generateKeys();
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    ...common(`CN=alone ${serialNumber}`, content),
    keys,
    extensions: leafExtensions(content),
  });
  return { certificate: pem(certificate), key: await keyPem(keys.privateKey) };
}

function generateKeys(): Promise<CryptoKeyPair> {
  return crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
}

function common(
  name: string,
  { notBefore = daysFromNow(-1), notAfter = daysFromNow(1) }: {
    notBefore?: Date;
    notAfter?: Date;
  } = {},
) {
  const number = (serialNumber++).toString(16).padStart(4, "0");
  return { name, serialNumber: number, notBefore, notAfter, signingAlgorithm: algorithm };
}

async function authorityExtensions(
  { publicKey }: CryptoKeyPair,
  pathLength?: number,
): Promise<x509.Extension[]> {
  return [
    new x509.BasicConstraintsExtension(true, pathLength, true),
    new x509.KeyUsagesExtension(keyCertSign | cRLSign, true),
    await x509.SubjectKeyIdentifierExtension.create(publicKey),
  ];
}

function leafExtensions(content: CertificateContent): x509.Extension[] {
  const { use, hosts = usualHosts, authority = false } = content;
  const keyUsage = content.enciphersOnly ? dataEncipherment : digitalSignature;
  const names = hosts.map((value) => ({
    type: /^[\d.]+$/.test(value) ? "ip" as const : "dns" as const,
    value,
  }));
  return [
    new x509.BasicConstraintsExtension(authority, undefined, true),
    new x509.KeyUsagesExtension(authority ? keyUsage | keyCertSign : keyUsage, true),
    new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage[`${use}Auth`]]),
    new x509.SubjectAlternativeNameExtension(names),
    // Of a tree that is for examples (RFC 7299), with the value NULL.
    ...(content.unknownExtension
      ? [new x509.Extension("1.3.6.1.4.1.32473.1", true, Uint8Array.of(5, 0))]
      : []),
  ];
}
