import { UsageError } from "../errors.ts";

/** Whether a value is as a policy wants it. */
export type Matcher<T> = (value: T) => boolean;

/**
 * A text in which anything may stand between parts.
 *
 * @param parts at least one; one alone is the whole text
 */
export function betweenParts(parts: readonly string[]): Matcher<string> {
  const [first = "", ...others] = parts;
  const last = others.pop();
  if (last === undefined) return (text) => text === first;
  return (text) => {
    const end = text.length - last.length;
    if (end < first.length || !text.startsWith(first) || !text.endsWith(last)) return false;
    let at = first.length;
    for (const part of others) {
      const found = text.indexOf(part, at);
      if (found < 0 || found + part.length > end) return false;
      at = found + part.length;
    }
    return true;
  };
}

/** A text in which `*` stands for any characters. */
export function textPattern(pattern: string): Matcher<string> {
  checkStars(pattern);
  return betweenParts(pattern.split("*"));
}

/** A host name, whatever its case, in which `*` stands for any characters of one label. */
export function dnsPattern(pattern: string): Matcher<string> {
  checkStars(pattern);
  const matches = segmentsPattern(pattern.toLowerCase(), ".");
  return (name) => matches(name.toLowerCase());
}

/** A mail address, its domain in any case, in which `*` stands for any characters on one side of the @. */
export function emailPattern(pattern: string): Matcher<string> {
  checkStars(pattern);
  const matches = segmentsPattern(withLowerCaseDomain(pattern), "@");
  return (address) => matches(withLowerCaseDomain(address));
}

/**
 * A URI in which `*` stands for any characters of one path segment, and `**` as the last segment for
 * all that follow, of which there must be one. Nothing is resolved: URIs with segments `.` and `..`,
 * which SPIFFE forbids (SPIFFE-ID, section 2.2), match nothing.
 */
export function uriPattern(pattern: string): Matcher<string> {
  const rest = pattern.endsWith("/**");
  const fixed = rest ? pattern.slice(0, -"/**".length) : pattern;
  checkStars(fixed);
  const count = fixed.split("/").length;
  const matches = segmentsPattern(fixed, "/");
  return (uri) => {
    const segments = uri.split("/");
    if (segments.includes(".") || segments.includes("..")) return false;
    if (!rest) return matches(uri);
    return segments.slice(count).some((segment) => segment !== "") &&
      matches(segments.slice(0, count).join("/"));
  };
}

/** The SHA-256 of a certificate, hexadecimal, in any case and with colons or without. */
export function fingerprintPattern(pattern: string): Matcher<string> {
  const wanted = pattern.replaceAll(":", "").toLowerCase();
  if (/^[0-9a-f]{64}$/.test(wanted)) return (fingerprint) => fingerprint === wanted;
  throw badPattern(pattern, "is no SHA-256 of a certificate: 64 hexadecimal digits are");
}

/** A segment that is `*` alone stands for at least one character. */
function segmentsPattern(pattern: string, separator: string): Matcher<string> {
  const matchers = pattern.split(separator).map((segment) =>
    segment === "*" ? (text: string) => text !== "" : betweenParts(segment.split("*"))
  );
  return (text) => {
    const segments = text.split(separator);
    return segments.length === matchers.length &&
      matchers.every((matches, index) => matches(segments[index]!));
  };
}

function withLowerCaseDomain(address: string): string {
  const at = address.lastIndexOf("@") + 1;
  return address.slice(0, at) + address.slice(at).toLowerCase();
}

function checkStars(pattern: string): void {
  if (!pattern.includes("**")) return;
  throw badPattern(pattern, "has ** where it means nothing: it may be the last segment of a uri");
}

/** @param what after the pattern, to the end of the sentence */
export function badPattern(pattern: string, what: string): UsageError {
  return new UsageError("bad_pattern", `${JSON.stringify(pattern)} ${what}`);
}
