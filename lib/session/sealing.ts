/** Which sessions over queue pairs are sealed: `--seal` of both sides. */
import type { Seal, SealCipher } from "../control/messages.ts";
import { RefusedError } from "../errors.ts";
import { chooseCipher, preferredCiphers } from "../security/record_ciphers.ts";

/** `off` is only to be had when both sides ask for it. */
export type SealMode = "required" | "off";

/** What a client offers. */
export function offeredSeals(mode: SealMode): Seal[] {
  return mode === "required" ? preferredCiphers() : ["off"];
}

/**
 * The server's choice.
 *
 * @throws RefusedError `seal` when it seals and the client does not
 */
export function chooseSeal(offered: readonly Seal[], mode: SealMode): Seal {
  const ciphers = offered.filter((each): each is SealCipher => each !== "off");
  const cipher = chooseCipher(ciphers, preferredCiphers());
  if (cipher) return cipher;
  if (mode === "off") return "off";
  throw new RefusedError(
    "seal",
    "this server seals what RDMA carries: leave out --seal off, or start the server with it too",
  );
}
