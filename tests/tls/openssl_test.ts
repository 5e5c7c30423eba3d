import { assertStringIncludes, assertThrows } from "@std/assert";
import { TlsError } from "../../lib/errors.ts";
import { TlsContext } from "../../lib/tls/openssl_context.ts";
import { testBackend } from "./backend_tests.ts";

testBackend("openssl");

Deno.test("what libssl does not take of the options is named, with what to do about that", () => {
  const settings = { ciphers: ["NO-SUCH-CIPHER"] };
  const trust = { authorities: [] };
  const error = assertThrows(() => TlsContext.client({ trust, settings }), TlsError);
  assertStringIncludes(error.message, "NO-SUCH-CIPHER");
  assertStringIncludes(error.remedy, "openssl ciphers");
});
