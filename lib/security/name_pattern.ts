import { attributeTypes, type NameAttribute, type RelativeName } from "../tls/peer_identity.ts";
import { badPattern, betweenParts, type Matcher } from "./pattern.ts";

/** Matches one attribute, or stands for any number of relative names. */
type RelativePattern = readonly Matcher<NameAttribute>[] | "any";

/** One attribute of a pattern, or a lone `*`, with what follows it. */
const element = new RegExp(
  String.raw`\s*(?:(\*)|([A-Za-z]+|\d+(?:\.\d+)+)=((?:\\[\da-f]{2}|\\.|[^\\,+;<>"])*))(,|\+|$)`,
  "iuy",
);

/** Values come apart at unescaped stars; escapes are those of RFC 4514, section 2.4, and `\*`. */
const valueToken = /((?:\\[\da-f]{2})+)|\\(.)|(\*)|([^\\*]+)/giu;

const typesInAnyCase = new Map(
  Object.entries(attributeTypes).flatMap(([oid, name]) => [[oid, name], [
    name.toLowerCase(),
    name,
  ]]),
);

/**
 * A distinguished name (RFC 4514) in which `*` stands for any characters of one value and, alone
 * between commas, for any number of attributes: `CN=node-*,OU=storage,*`. Names are compared by
 * their attributes, so that no value can pass for another attribute.
 *
 * @throws UsageError `bad_pattern`
 */
export function namePattern(pattern: string): Matcher<readonly RelativeName[]> {
  const relatives = parse(pattern);
  return (name) => matchesName(relatives, name);
}

function parse(pattern: string): RelativePattern[] {
  const relatives: RelativePattern[] = [];
  let attributes: Matcher<NameAttribute>[] = [];
  element.lastIndex = 0;
  for (let end: string | undefined = ","; end !== "";) {
    const [, any, type, value = "", next] = element.exec(pattern) ?? [];
    const alone = attributes.length === 0 && next !== "+";
    if (next === undefined || any !== undefined && !alone) {
      throw badPattern(pattern, "is no name as in CN=node-*,OU=storage,* (RFC 4514)");
    }
    if (type !== undefined) attributes.push(attributePattern(pattern, type, value));
    if (next !== "+") {
      relatives.push(any === undefined ? attributes : "any");
      attributes = [];
    }
    end = next;
  }
  return relatives;
}

function attributePattern(pattern: string, type: string, value: string): Matcher<NameAttribute> {
  const isOid = /^\d/.test(type);
  const wanted = typesInAnyCase.get(type.toLowerCase()) ?? (isOid ? type : undefined);
  if (wanted === undefined) {
    const known = Object.values(attributeTypes).join(", ");
    throw badPattern(pattern, `has the type ${type}: allowed are ${known} and numbers`);
  }
  if (/(?<!\\) $/.test(value)) throw badPattern(pattern, "has a space before a comma or the end");
  const matches = betweenParts(valueParts(value));
  return (attribute) =>
    attribute.type === wanted && attribute.value !== undefined && matches(attribute.value);
}

/** What stands between the stars of a value, unescaped. */
function valueParts(value: string): string[] {
  const parts = [""];
  for (const [, octets, escaped, star, plain] of value.matchAll(valueToken)) {
    if (star !== undefined) parts.push("");
    else parts[parts.length - 1] += octets ? utf8(octets) : escaped ?? plain ?? "";
  }
  return parts;
}

function utf8(octets: string): string {
  return new TextDecoder().decode(Uint8Array.fromHex(octets.replaceAll("\\", "")));
}

/** After an "any" that took too little the search goes on behind it: earlier ones need not be tried again. */
function matchesName(patterns: readonly RelativePattern[], name: readonly RelativeName[]): boolean {
  let pattern = 0;
  let at = 0;
  let retry: { readonly pattern: number; at: number } | undefined;
  while (at < name.length) {
    const relative = patterns[pattern];
    if (relative === "any") {
      retry = { pattern: pattern + 1, at };
      pattern += 1;
    } else if (relative && matchesRelative(relative, name[at]!)) {
      pattern += 1;
      at += 1;
    } else if (retry) {
      retry.at += 1;
      ({ pattern, at } = retry);
    } else {
      return false;
    }
  }
  return patterns.slice(pattern).every((left) => left === "any");
}

/** The attributes of a relative name have no order (X.501, section 9.3). */
function matchesRelative(patterns: readonly Matcher<NameAttribute>[], name: RelativeName): boolean {
  return patterns.length === name.length &&
    patterns.every((matches) => name.some(matches)) &&
    name.every((attribute) => patterns.some((matches) => matches(attribute)));
}
