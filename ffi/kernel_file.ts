import { cString, pointerOf, textOf } from "./layout.ts";
import { C, check, libc } from "./libc.ts";

/** Many times what the kernel writes to one, which it does at once. */
const MAX_BYTES = 16_384;

/**
 * The text of a file that the kernel makes, below /proc or /sys. By libc: Deno opens those only for a
 * program that has all permissions.
 *
 * @throws SystemError when it is not there or may not be read
 */
export function readKernelFile(path: string): string {
  const flags = C.O_RDONLY | C.O_CLOEXEC;
  const file = check("openat", libc().openat(C.AT_FDCWD, cString(path), flags, 0));
  try {
    const bytes = new Uint8Array(MAX_BYTES);
    const length = check("pread", libc().pread(file, pointerOf(bytes), BigInt(MAX_BYTES), 0n));
    return textOf(bytes.subarray(0, length));
  } finally {
    libc().close(file);
  }
}
