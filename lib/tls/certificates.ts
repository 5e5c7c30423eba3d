import "reflect-metadata";
import * as x509 from "@peculiar/x509";
import { isIP } from "node:net";
import type { Identity } from "./trust.ts";

/** An authority and what it has signed. */
export interface CertificateSet {
  readonly ca: Identity;
  readonly server: Identity;
  readonly client: Identity;
}

const authorityDays = 3650;
const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
const { digitalSignature, keyCertSign, cRLSign } = x509.KeyUsageFlags;

/** An authority in the making: its certificate and the pair of keys that signs. */
interface Authority {
  readonly certificate: x509.X509Certificate;
  readonly keys: CryptoKeyPair;
}

/**
 * Creates an authority and, signed by it, a server and a client certificate, all with new ECDSA
 * P-256 keys. Extensions are those that RFC 5280 asks for (section 4.2).
 *
 * @param options.hosts names and addresses that the server is reached by
 * @param options.days validity of the server and client certificates, below those of the authority (3650)
 */
export async function createCertificates(
  options: { hosts: readonly string[]; days: number },
): Promise<CertificateSet> {
  const authority = await createAuthority();
  const { days } = options;
  const names = options.hosts.map((host): x509.JsonGeneralName => ({
    type: isIP(host) === 0 ? "dns" : "ip",
    value: host,
  }));
  return {
    ca: {
      certificate: authority.certificate.toString("pem") + "\n",
      key: await keyPem(authority.keys.privateKey),
    },
    server: await createLeaf(authority, {
      name: "Verbseal server",
      use: "serverAuth",
      days,
      names,
    }),
    client: await createLeaf(authority, { name: "Verbseal client", use: "clientAuth", days }),
  };
}

async function createAuthority(): Promise<Authority> {
  const keys = await generateKeys();
  const serialNumber = randomSerial();
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber,
    // Two authorities of one name would make "unknown issuer" read as "bad signature".
    name: [{ CN: [`Verbseal development CA ${serialNumber.slice(-8)}`] }],
    ...validity(authorityDays),
    keys,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(keyCertSign | cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { certificate, keys };
}

interface LeafOptions {
  readonly name: string;
  readonly use: "serverAuth" | "clientAuth";
  readonly days: number;
  readonly names?: x509.JsonGeneralNames;
}

async function createLeaf(authority: Authority, options: LeafOptions): Promise<Identity> {
  const keys = await generateKeys();
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: randomSerial(),
    subject: [{ CN: [options.name] }],
    issuer: authority.certificate.subjectName,
    ...validity(options.days),
    publicKey: keys.publicKey,
    signingKey: authority.keys.privateKey,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage[options.use]]),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      await x509.AuthorityKeyIdentifierExtension.create(authority.keys.publicKey),
      ...(options.names ? [new x509.SubjectAlternativeNameExtension(options.names)] : []),
    ],
  });
  return {
    certificate: certificate.toString("pem") + "\n",
    key: await keyPem(keys.privateKey),
  };
}

function generateKeys(): Promise<CryptoKeyPair> {
  return crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
}

async function keyPem(key: CryptoKey): Promise<string> {
  return x509.PemConverter.encode(await crypto.subtle.exportKey("pkcs8", key), "PRIVATE KEY") +
    "\n";
}

/** From a little earlier than now, as the other side's clock may be slow. */
function validity(days: number): { notBefore: Date; notAfter: Date } {
  const minute = 60_000;
  const now = Date.now();
  return {
    notBefore: new Date(now - 5 * minute),
    notAfter: new Date(now + days * 24 * 60 * minute),
  };
}

/** 128 random bits; the first two are fixed so that the number is positive and of full length. */
function randomSerial(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[0] = bytes[0]! & 0x3f | 0x40;
  return bytes.toHex();
}
