import { readKernelFile } from "../../ffi/kernel_file.ts";
import { SystemError } from "../../ffi/libc.ts";

/** How Linux names the instructions for AES in /proc/cpuinfo: under flags on x86, under Features on arm64. */
const aes = /^(?:flags|Features)\s*:.*\baes\b/m;

/**
 * Whether the processor has instructions for AES; taken for granted where nobody says. Without them
 * AES is slow, and its time tells of the key where it is done with tables.
 */
export function hasAesInstructions(): boolean {
  try {
    return namesAes(readKernelFile("/proc/cpuinfo"));
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    return true;
  }
}

/** Whether what /proc/cpuinfo has of the first processor names them. */
export function namesAes(cpuinfo: string): boolean {
  return aes.test(cpuinfo);
}
