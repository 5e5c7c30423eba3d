import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { createProgram } from "../../lib/cli/program.ts";
import {
  ciphersOption,
  minVersionOption,
  tlsSettings,
  type TlsSettingsOptions,
} from "../../lib/cli/tls_options.ts";
import { UsageError } from "../../lib/errors.ts";
import type { TlsSettings } from "../../lib/tls/options.ts";

function settingsOf(...args: string[]): TlsSettings {
  const command = createProgram().addOption(minVersionOption()).addOption(ciphersOption());
  command.parse(args, { from: "user" });
  return tlsSettings(command.opts<TlsSettingsOptions>());
}

Deno.test("without options a handshake may agree on what the library thinks best", () => {
  assertEquals(settingsOf(), {});
});

Deno.test("cipher suites are listed with commas or colons, in the order wanted", () => {
  const ciphers = ["TLS_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"];
  for (const separator of [",", ":", ", "]) {
    assertEquals(settingsOf("--tls-ciphers", ciphers.join(separator)), { ciphers });
  }
  assertEquals(settingsOf("--tls-min", "1.3"), { minVersion: "1.3" });
});

Deno.test("a weak or unknown cipher suite is refused with those that are allowed", () => {
  for (const name of ["AES128-SHA", "ECDHE-RSA-AES128-SHA", "NULL", "ALL", ""]) {
    const { message } = assertThrows(
      () => settingsOf("--tls-ciphers", `TLS_AES_128_GCM_SHA256:${name}`),
      UsageError,
      "unknown or weak",
    );
    assertStringIncludes(message, JSON.stringify(name));
    assertStringIncludes(message, "ECDHE-ECDSA-CHACHA20-POLY1305");
  }
});

Deno.test("a version of TLS that is too old is refused", () => {
  assertThrows(() => settingsOf("--tls-min", "1.1"), UsageError, "1.2, 1.3");
});

Deno.test("cipher suites of TLS 1.2 alone do not go with TLS 1.3 as the least version", () => {
  const older = ["--tls-ciphers", "ECDHE-RSA-AES128-GCM-SHA256"];
  assertThrows(() => settingsOf("--tls-min", "1.3", ...older), UsageError, "TLS 1.3");
  assertEquals(settingsOf("--tls-min", "1.2", ...older).minVersion, "1.2");
});
