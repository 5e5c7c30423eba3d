import { constants } from "node:os";
import { cString, pointerOf, textOf } from "../../ffi/layout.ts";
import { C, check, libc, SystemError } from "../../ffi/libc.ts";
import { TlsError } from "../errors.ts";

const PATH = "/proc/net/tls_stat";

/** Many times what the kernel writes, which it does at once. */
const MAX_BYTES = 16_384;

/**
 * The kernel's TLS statistics for this network namespace, by name: connections and errors
 * (Documentation/networking/tls.rst of Linux).
 *
 * @throws TlsError `kernel_tls_missing` when the kernel has no TLS, or not yet,
 * `kernel_statistics_unreadable`
 */
export function kernelTlsStatistics(path: string = PATH): Record<string, number> {
  try {
    return parseKernelTlsStatistics(readText(path));
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    if (error.errno === constants.errno.ENOENT) throw missing(error);
    throw new TlsError(
      "kernel_statistics_unreadable",
      `${path} cannot be read: ${error.message}`,
      "look at its permissions, and at how /proc is mounted",
      { cause: error },
    );
  }
}

function missing(cause: Error): TlsError {
  const message = "the kernel has no TLS, as its module tls is not loaded";
  return new TlsError("kernel_tls_missing", message, "as root: modprobe tls", { cause });
}

/**
 * Statistics as /proc/net/tls_stat has them: lines of a name and a number.
 *
 * @throws TlsError `kernel_statistics_unreadable`
 */
export function parseKernelTlsStatistics(text: string): Record<string, number> {
  return Object.fromEntries(text.split("\n").filter((line) => line !== "").map(parseLine));
}

function parseLine(line: string): [name: string, value: number] {
  const [, name, value] = /^(\w+)\s+(\d+)$/.exec(line) ?? [];
  if (name !== undefined && value !== undefined) return [name, Number(value)];
  throw new TlsError(
    "kernel_statistics_unreadable",
    `${PATH} has a line that is not a name and a number: ${JSON.stringify(line)}`,
    "report it with the kernel's version (uname -r)",
  );
}

/** By libc: Deno opens files below /proc only for a program that has all permissions. */
function readText(path: string): string {
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
