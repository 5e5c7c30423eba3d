import { cString } from "../../ffi/layout.ts";
import { C, libc, statxBuffer } from "../../ffi/libc.ts";

/** Bytes of a file whose blocks the system frees in some ten milliseconds. */
const SOON_FREED = 2 ** 26;

/**
 * Closes a descriptor. Whoever ends the last reference to a file that has no name waits while the
 * system frees its blocks: a second for some gigabytes. So that is left to another thread, and nobody
 * waits for it, as the call needs nothing of this process.
 */
export function closeFile(fd: number): void {
  const status = statxBuffer.allocate();
  const mask = C.STATX_NLINK | C.STATX_SIZE;
  const known = libc().statx(fd, cString(""), C.AT_EMPTY_PATH, mask, status.pointer) === 0;
  if (known && status.get("stx_nlink") === 0 && status.get("stx_size") > SOON_FREED) {
    libc().closeAsync(fd);
  } else {
    libc().close(fd);
  }
}
