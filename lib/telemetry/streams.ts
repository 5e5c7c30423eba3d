/** Standard output, standard error or a file: they take bytes at once, so nothing is lost on exit. */
export interface TextStream {
  writeSync(bytes: Uint8Array): number;
}

const encoder = new TextEncoder();

/**
 * Writes all of `text`.
 *
 * @returns false when the reader has closed its end (`verbseal … | head -1`)
 * @throws Deno.errors.* when the stream cannot be written for another reason, such as a full disk
 */
export function writeText(stream: TextStream, text: string): boolean {
  return writeBytes(stream, encoder.encode(text));
}

/** Writes all of `bytes`; otherwise as {@linkcode writeText}. */
export function writeBytes(stream: TextStream, bytes: Uint8Array): boolean {
  try {
    for (let written = 0; written < bytes.length;) {
      written += stream.writeSync(bytes.subarray(written));
    }
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.BrokenPipe) return false;
    throw error;
  }
}
