import { LibraryError } from "../../ffi/library.ts";
import type { SealCipher } from "../control/messages.ts";
import { hasAesInstructions } from "./cpu.ts";
import { EvpRecordCipher } from "./evp_record_cipher.ts";
import { NodeRecordCipher } from "./node_record_cipher.ts";
import type { RecordCipher, SealDirection } from "./record_cipher.ts";

/** By libcrypto, or by Deno's own where there is none. */
export function createRecordCipher(cipher: SealCipher, direction: SealDirection): RecordCipher {
  try {
    return new EvpRecordCipher(cipher, direction);
  } catch (error) {
    if (!(error instanceof LibraryError)) throw error;
    return new NodeRecordCipher(cipher);
  }
}

/**
 * What this host seals with, most wanted first.
 *
 * @param aes whether the processor has instructions for it
 */
export function preferredCiphers(aes = hasAesInstructions()): SealCipher[] {
  return aes ? ["aes-256-gcm", "chacha20-poly1305"] : ["chacha20-poly1305", "aes-256-gcm"];
}

/**
 * The server's choice: AES where both processors are good at it.
 *
 * @param offered by the client, most wanted first
 * @param own as of {@linkcode preferredCiphers}
 * @returns undefined when nothing is offered that seals
 */
export function chooseCipher(
  offered: readonly SealCipher[],
  own: readonly SealCipher[],
): SealCipher | undefined {
  const [first] = offered;
  return own[0] === first ? first : offered.find((each) => each === "chacha20-poly1305") ?? first;
}
