import { fileURLToPath } from "node:url";
import { TlsError } from "../errors.ts";

/** Where a private key in a token is, and what opens the token. */
export interface Pkcs11Uri {
  /** The URI up to its query: it names the key, holds no secret and may be shown. */
  readonly name: string;
  readonly pin?: string;
  /** Path of a file that holds the PIN. */
  readonly pinFile?: string;
  /** Path of the library that speaks to the token. */
  readonly modulePath?: string;
}

const scheme = "pkcs11:";

/** What OpenSSL's engine and its provider both match keys by. */
const tokenAttributes = ["token", "manufacturer", "model", "serial"];
const keyAttributes = ["object", "id", "type"];
const queryAttributes = ["pin-value", "pin-source", "module-path"];

/** Characters of a value (RFC 7512, section 2.3): pk11-path-res-avail, and pk11-query-res-avail. */
const pathValue = /^(?:[\w.~:[\]@!$'()*+,=&-]|%[0-9a-f]{2})+$/i;
const queryValue = /^(?:[\w.~:[\]@!$'()*+,=/?|-]|%[0-9a-f]{2})+$/i;

/** Whether what stands where a file's path may is the URI of a key in a token. */
export function isPkcs11Uri(text: string): boolean {
  return text.startsWith(scheme);
}

/**
 * Reads the URI of a private key (RFC 7512).
 *
 * @throws TlsError `bad_key_uri`, whose words hold nothing of the URI but the names of attributes,
 * as a misplaced PIN could stand anywhere
 */
export function parsePkcs11Uri(text: string): Pkcs11Uri {
  const [path = "", ...rest] = text.slice(scheme.length).split("?");
  const query = rest.join("?");
  const place = attributes(path, ";", [...tokenAttributes, ...keyAttributes], pathValue);
  if (!place.has("object") && !place.has("id")) {
    throw bad("names no key: object= or id= is missing");
  }
  const type = place.get("type");
  if (type !== undefined && type !== "private") throw bad("is not that of a private key");
  const { "pin-value": pin, "pin-source": source, "module-path": modulePath } = Object.fromEntries(
    [...attributes(query, "&", queryAttributes, queryValue)]
      .map(([name, value]) => [name, decoded(value)]),
  );
  if (pin !== undefined && source !== undefined) throw bad("has both a pin-value and a pin-source");
  return {
    name: scheme + path + (type === undefined ? ";type=private" : ""),
    ...(pin === undefined ? {} : { pin }),
    ...(source === undefined ? {} : { pinFile: pinFile(source) }),
    ...(modulePath === undefined ? {} : { modulePath }),
  };
}

/** The URI of a key, with the PIN itself, as {@linkcode parsePkcs11Uri} reads it. */
export function pkcs11UriText({ name, pin, modulePath }: Omit<Pkcs11Uri, "pinFile">): string {
  const query = Object.entries({ "pin-value": pin, "module-path": modulePath })
    .flatMap(([key, value]) => value === undefined ? [] : [`${key}=${encodeURIComponent(value)}`]);
  return query.length === 0 ? name : `${name}?${query.join("&")}`;
}

/** The name of all private keys in the key's token. */
export function privateKeysOfToken({ name }: Pkcs11Uri): string {
  const token = name.slice(scheme.length).split(";")
    .filter((each) => tokenAttributes.some((attribute) => each.startsWith(`${attribute}=`)));
  return scheme + [...token, "type=private"].join(";");
}

/** `name=value` pairs, with each name once and known; values as they are written. */
function attributes(
  text: string,
  separator: string,
  known: readonly string[],
  allowed: RegExp,
): Map<string, string> {
  const found = new Map<string, string>();
  for (const pair of text === "" ? [] : text.split(separator)) {
    const equals = pair.indexOf("=");
    const name = pair.slice(0, Math.max(equals, 0));
    const value = pair.slice(equals + 1);
    if (!known.includes(name)) throw bad(`has an attribute that is none of ${known.join(", ")}`);
    if (found.has(name)) throw bad(`has ${name} twice`);
    if (!allowed.test(value)) {
      throw bad(`has a character in ${name} that must be written as % and two digits, or no value`);
    }
    // An id is any bytes; the others end for C at a zero.
    if (name !== "id") decoded(value);
    found.set(name, value);
  }
  return found;
}

function decoded(value: string): string {
  try {
    const text = decodeURIComponent(value);
    if (!text.includes("\0")) return text;
  } catch (error) {
    if (!(error instanceof URIError)) throw error;
  }
  throw bad("is not of UTF-8 without zero bytes");
}

/** A pin-source is a path, or a URI of the scheme `file` (RFC 7512, section 2.4). */
function pinFile(source: string): string {
  if (source.startsWith("|")) throw bad("has a program as its pin-source, which is not supported");
  if (!source.startsWith("file:")) return source;
  try {
    return fileURLToPath(source);
  } catch {
    throw bad("has a pin-source that is not the path of a file here");
  }
}

function bad(why: string): TlsError {
  return new TlsError(
    "bad_key_uri",
    `The pkcs11: URI of the key ${why}`,
    "Write it as pkcs11:token=NAME;object=NAME;type=private?pin-source=file:/PATH (RFC 7512)",
  );
}
