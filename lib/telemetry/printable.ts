/** Control, format (bidirectional overrides, tags) and line-separating characters. */
const unprintable = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;

/**
 * Text that came from elsewhere, safe to show on one line of a terminal or a log: characters that
 * move the cursor, begin a line or hide others are written as `\uXXXX`, as in JSON.
 */
export function printable(text: string): string {
  return text.replace(
    unprintable,
    (character) =>
      character.split("").map((unit) => "\\u" + unit.charCodeAt(0).toString(16).padStart(4, "0"))
        .join(""),
  );
}
