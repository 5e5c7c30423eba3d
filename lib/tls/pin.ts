import { createHash } from "node:crypto";
import { UsageError } from "../errors.ts";

/** The last character of the base64 stands for two bits more than there are: they are zero. */
const pattern = /^sha256:(?:([A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=)|([0-9A-Fa-f]{64}))$/;

/**
 * The pin of a public key: `sha256:` and its SHA-256 in base64 with padding, what RFC 7469
 * (section 2.4) calls a fingerprint. It outlives the certificate for as long as the key is kept.
 *
 * @param spkiDer the SubjectPublicKeyInfo (RFC 5280, section 4.1), DER
 */
export function pinOf(spkiDer: Uint8Array): string {
  return `sha256:${createHash("sha256").update(spkiDer).digest("base64")}`;
}

/**
 * The pin that a user has written, as {@linkcode pinOf} writes it.
 *
 * @param text `sha256:` and 32 bytes in base64 with padding, or as 64 hexadecimal digits
 * @throws UsageError `bad_pin` if it is anything else
 */
export function parsePin(text: string): string {
  const [, base64, hex] = pattern.exec(text) ?? [];
  if (base64 !== undefined) return text;
  if (hex !== undefined) return `sha256:${Uint8Array.fromHex(hex).toBase64()}`;
  throw new UsageError(
    "bad_pin",
    `${JSON.stringify(text)} is no pin of a public key`,
    "Write sha256: and 44 characters of base64 or 64 hexadecimal digits, as " +
      "verbseal certs pin FILE prints it",
  );
}
