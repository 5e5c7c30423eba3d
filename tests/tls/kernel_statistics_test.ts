import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import fc from "fast-check";
import { libc } from "../../ffi/libc.ts";
import { TlsError } from "../../lib/errors.ts";
import {
  kernelTlsRemedy,
  kernelTlsStatistics,
  parseKernelTlsStatistics,
} from "../../lib/tls/kernel_statistics.ts";

// Deno's check for leaks wants libraries loaded before the first test.
libc();

/** As Linux 6.1 writes it: names padded to 32 characters, a tab, the number (net/tls/tls_proc.c). */
function written(statistics: Iterable<readonly [string, number]>): string {
  return [...statistics].map(([name, value]) => `${name.padEnd(32)}\t${value}\n`).join("");
}

const linux61 = {
  TlsCurrTxSw: 1,
  TlsCurrRxSw: 1,
  TlsCurrTxDevice: 0,
  TlsCurrRxDevice: 0,
  TlsTxSw: 17,
  TlsRxSw: 16,
  TlsTxDevice: 0,
  TlsRxDevice: 0,
  TlsDecryptError: 2,
  TlsRxDeviceResync: 0,
  TlsDecryptRetry: 0,
  TlsRxNoPadViolation: 0,
};

Deno.test("statistics are read by name", async () => {
  const file = await Deno.makeTempFile();
  try {
    await Deno.writeTextFile(file, written(Object.entries(linux61)));
    assertEquals(kernelTlsStatistics(file), linux61);
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("statistics that no kernel has yet are read, too", () => {
  const name = fc.stringMatching(/^Tls[A-Za-z0-9]{1,40}$/);
  const statistics = fc.dictionary(name, fc.nat({ max: Number.MAX_SAFE_INTEGER }), {
    noNullPrototype: true,
  });
  fc.assert(fc.property(statistics, (each) => {
    assertEquals(parseKernelTlsStatistics(written(Object.entries(each))), each);
  }));
});

Deno.test("a line that is not a name and a number is refused", () => {
  for (const line of ["TlsTxSw", "TlsTxSw -1", "TlsTxSw 1 2", "17", "TlsTxSw 0x1"]) {
    const error = assertThrows(() => parseKernelTlsStatistics(`TlsRxSw 1\n${line}\n`), TlsError);
    assertEquals(error.code, "kernel_statistics_unreadable", line);
  }
});

Deno.test("without the module tls there are no statistics, and its loading is the remedy", () => {
  const error = assertThrows(() => kernelTlsStatistics("/proc/net/no_such_file"), TlsError);
  assertEquals(error.code, "kernel_tls_missing");
  assertMatch(error.remedy, /modprobe (-a )?tls/);
});

Deno.test("a file that cannot be read is named, with the reason", () => {
  const error = assertThrows(() => kernelTlsStatistics("/proc/net"), TlsError);
  assertEquals(error.code, "kernel_statistics_unreadable");
  assertMatch(error.message, /^\/proc\/net cannot be read: pread failed with EISDIR$/);
});

Deno.test("what helps a connection that the kernel leaves to this process depends on why", async () => {
  const loaded = await Deno.makeTempFile();
  await Deno.writeTextFile(loaded, written([["TlsTxSw", 0]]));
  const remedy = (version: string, cipher: string, path = loaded) =>
    kernelTlsRemedy({ version, cipher, resumed: false }, path);
  const modern = "TLS_AES_256_GCM_SHA384";
  assertMatch(remedy("TLSv1.3", modern, "/proc/net/no_such_file"), /modprobe (-a )?tls/);
  assertMatch(remedy("TLSv1.3", "TLS_CHACHA20_POLY1305_SHA256"), /one with AES-256-GCM/);
  assertMatch(remedy("TLSv1.3", modern), /leave out --tls-min 1\.3/);
  assertMatch(remedy("TLSv1.2", "ECDHE-RSA-AES256-GCM-SHA384"), /enable-ktls/);
  await Deno.remove(loaded);
});
