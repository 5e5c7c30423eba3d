/** Looks in what crossed a wire for what nobody must be able to read there. */
import { Buffer } from "node:buffer";

/** Something that must not be readable, in one of the forms in which it could be. */
export interface Sensitive {
  readonly what: string;
  readonly bytes: Uint8Array;
}

/** Bytes that crossed the wire. */
export interface Place {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** Words as they stand. */
export function text(what: string, words: string): Sensitive {
  return { what: `${what} as text (${words})`, bytes: Buffer.from(words) };
}

/** A secret as bytes, and as programs print bytes. */
export function secret(what: string, bytes: Uint8Array): Sensitive[] {
  return [{ what, bytes }, ...printed(what, bytes)];
}

/** Bytes as programs print them: hexadecimal and base64. */
export function printed(what: string, bytes: Uint8Array): Sensitive[] {
  const hexadecimal = Buffer.from(bytes).toString("hex");
  // The last digit and the padding depend on what follows.
  const digits = Math.floor(bytes.length * 8 / 6);
  const base64 = Buffer.from(bytes).toString("base64").slice(0, digits);
  const base64Url = base64.replaceAll("+", "-").replaceAll("/", "_");
  const forms = new Set([hexadecimal, hexadecimal.toUpperCase(), base64, base64Url]);
  return [...forms].map((words) => text(what, words));
}

/**
 * A PSN as programs print it: decimal and hexadecimal. Fewer digits than five stand by chance in
 * megabytes that are encrypted.
 */
export function printedPsn(what: string, psn: number): Sensitive[] {
  const hexadecimal = psn.toString(16).padStart(6, "0");
  const forms = [String(psn), hexadecimal, hexadecimal.toUpperCase()];
  return forms.filter(({ length }) => length >= 5).map((words) => text(what, words));
}

/** A PSN as C programs send it: so many bytes (3 or 4), of either order. */
export function binaryPsn(what: string, psn: number, length: 3 | 4): Sensitive[] {
  const big = Buffer.alloc(length);
  big.writeUIntBE(psn, 0, length);
  return [{ what, bytes: big }, { what, bytes: Uint8Array.from(big).reverse() }];
}

/** What of it can be read where, in sentences. */
export function readable(places: readonly Place[], sensitive: readonly Sensitive[]): string[] {
  return places.flatMap(({ name, bytes }) =>
    [...new Set(find(bytes, sensitive))].map(({ what }) => `${what} can be read in ${name}`)
  );
}

/** Each occurrence of any of these in a place; they are of two bytes or more. */
export function find<T extends Pick<Sensitive, "bytes">>(
  place: Uint8Array,
  wanted: readonly T[],
): T[] {
  // One pass over megabytes for hundreds of them.
  const byStart = new Array<T[] | undefined>(2 ** 16);
  for (const each of wanted) (byStart[startOf(each.bytes, 0)] ??= []).push(each);
  const found: T[] = [];
  for (let at = 0; at + 1 < place.length; at++) {
    const candidates = byStart[startOf(place, at)];
    if (candidates) found.push(...candidates.filter(({ bytes }) => isAt(place, at, bytes)));
  }
  return found;
}

function startOf(bytes: Uint8Array, at: number): number {
  return bytes[at]! * 256 + bytes[at + 1]!;
}

function isAt(place: Uint8Array, at: number, bytes: Uint8Array): boolean {
  return bytes.every((byte, index) => place[at + index] === byte);
}
