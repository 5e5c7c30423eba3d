/**
 * Which library speaks TLS in this run of the tests, in servers and clients alike: without a word
 * rustls, through Deno; with VERBSEAL_TEST_TLS=openssl libssl, which everything must work with too.
 */
import type { Backend } from "../lib/tls/backend.ts";
import type { TlsSettings } from "../lib/tls/options.ts";

export const tlsBackend: Backend = Deno.env.get("VERBSEAL_TEST_TLS") === "openssl"
  ? "openssl"
  : "deno";

/** What makes the options ask for that library, and changes nothing: 1.2 is the least without it. */
export const tlsSettings: TlsSettings = tlsBackend === "openssl" ? { minVersion: "1.2" } : {};

/** The same as options of the program. */
export const tlsArguments: readonly string[] = tlsBackend === "openssl" ? ["--tls-min", "1.2"] : [];
