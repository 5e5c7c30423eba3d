import { constants } from "node:os";
import { readKernelFile } from "../../ffi/kernel_file.ts";
import { SystemError } from "../../ffi/libc.ts";
import { TlsError } from "../errors.ts";

const PATH = "/proc/net/tls_stat";

/**
 * The kernel's TLS statistics for this network namespace, by name: connections and errors
 * (Documentation/networking/tls.rst of Linux).
 *
 * @throws TlsError `kernel_tls_missing` when the kernel has no TLS, or not yet,
 * `kernel_statistics_unreadable`
 */
export function kernelTlsStatistics(path: string = PATH): Record<string, number> {
  try {
    return parseKernelTlsStatistics(readKernelFile(path));
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
