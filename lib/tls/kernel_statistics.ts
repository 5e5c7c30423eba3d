import { constants } from "node:os";
import { readKernelFile } from "../../ffi/kernel_file.ts";
import { SystemError } from "../../ffi/libc.ts";
import { TlsError } from "../errors.ts";
import type { HandshakeFacts } from "./connection.ts";

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
  const remedy = `as root: modprobe ${loadsModules() ? "tls" : `-a tls ${cipherModules}`}`;
  return new TlsError("kernel_tls_missing", message, remedy, { cause });
}

/** What the module tls has the kernel load for AES-GCM, by the names that it asks for. */
const cipherModules = "crypto-gcm crypto-ctr crypto-ghash crypto-aes";

/** Whether the kernel loads modules that it needs; it does not where it has no program to do it (proc(5)). */
function loadsModules(): boolean {
  try {
    return readKernelFile("/proc/sys/kernel/modprobe").trim() !== "";
  } catch (error) {
    if (error instanceof SystemError) return true;
    throw error;
  }
}

/**
 * What to do where the kernel does not seal or open the records of a connection.
 *
 * @param handshake what the connection has agreed on
 */
export function kernelTlsRemedy(
  { version, cipher }: HandshakeFacts,
  path: string = PATH,
): string {
  try {
    kernelTlsStatistics(path);
  } catch (error) {
    if (error instanceof TlsError) return error.remedy;
    throw error;
  }
  if (!/AES_?256_GCM/.test(cipher.replaceAll("-", "_"))) {
    return `the kernel is not used for ${cipher}: let --tls-ciphers have one with AES-256-GCM`;
  }
  if (version === "TLSv1.3") {
    return "OpenSSL before 3.2 has the kernel open no records of TLS 1.3: leave out --tls-min 1.3, " +
      "and let --tls-ciphers have a suite of TLS 1.2 with AES-256-GCM";
  }
  return `let the kernel have AES-GCM, as root: modprobe -a ${cipherModules}; and use an OpenSSL ` +
    "that was built with enable-ktls";
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
