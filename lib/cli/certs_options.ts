import { InvalidArgumentError, Option } from "commander";
import { defaultKeyType, keyTypes } from "../tls/key_types.ts";
import { wholeNumber } from "./values.ts";

/** Longest validity that browsers and operating systems accept of a leaf of a private authority. */
export const daysMost = 825;

/** `--directory`, of commands that sign: where the authority is. */
export function authorityOption(): Option {
  return new Option("--directory <directory>", "folder of the authority, ca.pem and ca.key")
    .default("certs");
}

/** `--days`. */
export function daysOption(whose: string): Option {
  return new Option("--days <days>", `validity of ${whose}, at most ${daysMost}`)
    .argParser(wholeNumber(1, daysMost)).default(daysMost);
}

/** `--key-type`. */
export function keyTypeOption(): Option {
  return new Option("--key-type <type>", "type of new keys").choices(keyTypes)
    .default(defaultKeyType);
}

/** A part of a subject's name: 64 characters at most (RFC 5280, appendix A, ub-common-name). */
export function namePart(text: string): string {
  if (/^[^\p{Cc}]{1,64}$/u.test(text)) return text;
  throw new InvalidArgumentError("It must have 1 to 64 characters, and no control characters.");
}

/** The name of a certificate and of its files. */
export function certificateName(text: string): string {
  if (text === "ca") throw new InvalidArgumentError("That is the authority's name.");
  if (/^\w[\w.@-]{0,63}$/.test(text)) return text;
  throw new InvalidArgumentError(
    "It must have 1 to 64 letters, digits and of .@-_, and begin with a letter or digit.",
  );
}

/** An absolute URI in ASCII, as certificates hold them. */
export function uri(text: string): string {
  if (/^[a-z][a-z0-9+.-]*:[\x21-\x7e]+$/i.test(text) && URL.canParse(text)) return text;
  throw new InvalidArgumentError("It must be a URI, such as spiffe://example.com/storage.");
}

/** An http: or https: URL in ASCII. */
export function webUrl(text: string): string {
  if (/^https?:[\x21-\x7e]+$/.test(text) && URL.canParse(text)) return text;
  throw new InvalidArgumentError("It must be a URL, such as http://ca.example.com/ca.crl.");
}
