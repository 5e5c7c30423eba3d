import type { AttributeTypeAndValue, Name } from "@peculiar/asn1-x509";
import { createHash } from "node:crypto";
import { errorText, TlsError } from "../errors.ts";

/** One attribute of a name, such as `OU` and `storage`. */
export interface NameAttribute {
  /** Short name as in {@linkcode attributeTypes}, else the dotted object identifier. */
  readonly type: string;
  /** Undefined where it is no text. */
  readonly value: string | undefined;
}

/** What stands between two commas of a name: one attribute, seldom more. */
export type RelativeName = readonly NameAttribute[];

/** Subject alternative names (RFC 5280, section 4.2.1.6) by kind; other kinds are passed by. */
export interface AlternativeNames {
  readonly dns: readonly string[];
  readonly uri: readonly string[];
  readonly ip: readonly string[];
  readonly email: readonly string[];
}

/** Who the peer is, by the certificate that it has shown. */
export interface PeerIdentity {
  /** RFC 4514 text: the last attribute of the certificate first. */
  readonly subject: string;
  /** What the text says, in its order: to compare with, as text can be misread. */
  readonly subjectName: readonly RelativeName[];
  /** RFC 4514 text. */
  readonly issuer: string;
  readonly commonNames: readonly string[];
  readonly organizations: readonly string[];
  readonly organizationalUnits: readonly string[];
  readonly alternativeNames: AlternativeNames;
  /** Hexadecimal, lower case. */
  readonly serial: string;
  /** SHA-256 of the certificate, hexadecimal, lower case. */
  readonly fingerprint: string;
}

/** Short names of attribute types (RFC 4514, section 3, and those that OpenSSL has beside). */
export const attributeTypes: Readonly<Record<string, string>> = {
  "2.5.4.3": "CN",
  "2.5.4.4": "SN",
  "2.5.4.5": "serialNumber",
  "2.5.4.6": "C",
  "2.5.4.7": "L",
  "2.5.4.8": "ST",
  "2.5.4.9": "street",
  "2.5.4.10": "O",
  "2.5.4.11": "OU",
  "2.5.4.12": "title",
  "2.5.4.42": "GN",
  "0.9.2342.19200300.100.1.1": "UID",
  "0.9.2342.19200300.100.1.25": "DC",
  "1.2.840.113549.1.9.1": "emailAddress",
};

/**
 * Reads a certificate that the handshake has verified. The parser of ASN.1 is loaded by the first.
 *
 * @param der of the certificate
 * @throws TlsError `peer_certificate` when it cannot be read
 */
export async function peerIdentity(der: Uint8Array): Promise<PeerIdentity> {
  const [{ AsnConvert }, x509] = await Promise.all([
    import("@peculiar/asn1-schema"),
    import("@peculiar/asn1-x509"),
  ]);
  try {
    const { tbsCertificate } = AsnConvert.parse(der, x509.Certificate);
    const { subject, issuer, serialNumber, extensions } = tbsCertificate;
    const extension = extensions?.find(({ extnID }) => extnID === x509.id_ce_subjectAltName);
    const names = extension
      ? [...AsnConvert.parse(extension.extnValue, x509.SubjectAlternativeName)]
      : [];
    const present = (values: (string | undefined)[]) =>
      values.filter((value) => value !== undefined);
    const subjectName = nameOf(subject);
    return {
      subject: nameText(subject),
      subjectName,
      issuer: nameText(issuer),
      commonNames: valuesOf(subjectName, "CN"),
      organizations: valuesOf(subjectName, "O"),
      organizationalUnits: valuesOf(subjectName, "OU"),
      alternativeNames: {
        dns: present(names.map(({ dNSName }) => dNSName)),
        uri: present(names.map(({ uniformResourceIdentifier }) => uniformResourceIdentifier)),
        ip: present(names.map(({ iPAddress }) => iPAddress)),
        email: present(names.map(({ rfc822Name }) => rfc822Name)),
      },
      serial: new Uint8Array(serialNumber).toHex().replace(/^00(?=.)/, ""),
      fingerprint: createHash("sha256").update(der).digest("hex"),
    };
  } catch (error) {
    throw new TlsError(
      "peer_certificate",
      `the peer's certificate cannot be read: ${errorText(error)}`,
      "Have it issued anew",
      { cause: error },
    );
  }
}

/** An identity as a log shows it. */
export function identityFields(
  { subject, serial, issuer, alternativeNames, fingerprint }: PeerIdentity,
): Record<string, unknown> {
  const sans = Object.entries(alternativeNames)
    .flatMap(([kind, names]: [string, readonly string[]]) =>
      names.map((name) => `${kind}:${name}`)
    );
  return { subject, serial, issuer, ...(sans.length > 0 ? { sans } : {}), fingerprint };
}

function valuesOf(name: readonly RelativeName[], wanted: string): string[] {
  return name.flat().flatMap(({ type, value }) =>
    type === wanted && value !== undefined ? [value] : []
  );
}

/** `Array.from`, as the parser's arrays make more of their own kind. */
function nameOf(name: Name): RelativeName[] {
  return Array.from(name, (relative) =>
    Array.from(relative, ({ type, value }) => ({
      type: attributeTypes[type] ?? type,
      value: value.anyValue ? undefined : value.toString(),
    }))).reverse();
}

function nameText(name: Name): string {
  return Array.from(name, (relative) => Array.from(relative, attributeText).join("+"))
    .reverse().join(",");
}

function attributeText({ type, value }: AttributeTypeAndValue): string {
  const text = value.anyValue
    ? `#${new Uint8Array(value.anyValue).toHex()}`
    : escapeValue(value.toString());
  return `${attributeTypes[type] ?? type}=${text}`;
}

/** RFC 4514, section 2.4; control characters as the hexadecimal digits of their UTF-8. */
function escapeValue(value: string): string {
  return value.replace(
    /[\\",+;<>]|^[ #]|\p{Cc}| $/gu,
    (character) =>
      /\p{Cc}/u.test(character)
        ? new TextEncoder().encode(character).toHex().replace(/../g, "\\$&")
        : `\\${character}`,
  );
}
