import { readKernelFile } from "../../ffi/kernel_file.ts";
import { SystemError } from "../../ffi/libc.ts";

let mask: number | undefined;

/**
 * The process's mask of permissions that new files do not get, as it was when it was first asked for.
 * umask(2) tells it only by setting another, which files of other threads would have meanwhile. Where
 * /proc does not tell it, it is the strictest that still leaves the user's own permissions.
 */
export function umask(): number {
  return mask ??= readUmask() ?? 0o077;
}

function readUmask(): number | undefined {
  try {
    const [, digits] = readKernelFile("/proc/self/status").match(/^Umask:\s*([0-7]+)$/m) ?? [];
    return digits === undefined ? undefined : parseInt(digits, 8);
  } catch (error) {
    if (error instanceof SystemError) return undefined;
    throw error;
  }
}
