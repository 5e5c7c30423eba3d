/**
 * What JSON of a peer is parsed at all. Most of JSON.parse's time goes into what it builds: 64 KiB of
 * distinct keys, or of arrays within each other, take it a hundred times as long as 64 KiB of text. And
 * what is nested some thousand deep can be parsed, but not cloned: the thread that it is posted to dies.
 */

/** Objects and arrays within each other: the body of a REQUEST has some in it, which makes three. */
const MAX_DEPTH = 4;

/** Fields and elements in all: a HELLO has some twenty. */
const MAX_VALUES = 64;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const OPENING_BRACE = 0x7b;
const CLOSING_BRACE = 0x7d;
const OPENING_BRACKET = 0x5b;
const CLOSING_BRACKET = 0x5d;

/**
 * Whether JSON has no more values, and is nested no deeper, than a message of ours. It may be no JSON
 * at all: JSON.parse comes no further in that than this has looked.
 *
 * @param json UTF-8
 */
export function isPlain(json: Uint8Array): boolean {
  let depth = 0;
  let values = 0;
  let quoted = false;
  for (let at = 0; at < json.length; at++) {
    const byte = json[at];
    if (quoted) {
      if (byte === BACKSLASH) at += 1;
      else if (byte === QUOTE) quoted = false;
      continue;
    }
    switch (byte) {
      case QUOTE:
        quoted = true;
        break;
      case OPENING_BRACE:
      case OPENING_BRACKET:
        depth += 1;
        values += 1;
        break;
      case CLOSING_BRACE:
      case CLOSING_BRACKET:
        depth -= 1;
        break;
      case COMMA:
        values += 1;
        break;
    }
    if (depth > MAX_DEPTH || values > MAX_VALUES) return false;
  }
  return true;
}
