import { C, check, libc } from "../../ffi/libc.ts";

/**
 * Keeps other processes of this user from looking into this one, and its memory, with keys in it, from
 * being written to a file should it crash (PR_SET_DUMPABLE(2const)). Root still may look.
 */
export function hideMemory(): void {
  check("prctl", libc().prctl(C.PR_SET_DUMPABLE, 0n, 0n, 0n, 0n));
}
