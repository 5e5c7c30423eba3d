import { Buffer } from "node:buffer";
import { buffer } from "node:stream/consumers";
import { encodeBase64 } from "@std/encoding/base64";
import { writeBytes } from "../telemetry/streams.ts";
import type { Output } from "./output.ts";

const lineFeed = new TextEncoder().encode("\n");

/** All that comes on standard input. */
export async function readInput(): Promise<Uint8Array> {
  return await buffer(Deno.stdin.readable as unknown as AsyncIterable<Uint8Array>);
}

/**
 * Prints bytes as they are; with `--json` under `name` as text if they are UTF-8, else under
 * `nameBase64`.
 *
 * @param options.line end with a line feed, as text for people does; on a terminal it always does
 */
export function showBytes(
  output: Output,
  name: string,
  bytes: Uint8Array,
  facts: Record<string, unknown>,
  options: { line: boolean },
): void {
  if (!output.json) {
    const line = options.line || Deno.stdout.isTerminal();
    writeBytes(Deno.stdout, line ? Buffer.concat([bytes, lineFeed]) : bytes);
    return;
  }
  const text = textOf(bytes);
  const shown = text === undefined ? { [`${name}Base64`]: encodeBase64(bytes) } : { [name]: text };
  output.result({ ...shown, bytes: bytes.length, ...facts }, "");
}

function textOf(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}
