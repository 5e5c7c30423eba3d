import { assertEquals } from "@std/assert";
import { libc } from "../../ffi/libc.ts";
import { hasAesInstructions, namesAes } from "../../lib/security/cpu.ts";
import { chooseCipher, preferredCiphers } from "../../lib/security/record_ciphers.ts";

// libc stays open for the life of the process, and is not the leak of the first test that needs it.
libc();

const withAes = preferredCiphers(true);
const withoutAes = preferredCiphers(false);

Deno.test("both ciphers are offered, AES first where the processor has instructions for it", () => {
  assertEquals(withAes, ["aes-256-gcm", "chacha20-poly1305"]);
  assertEquals(withoutAes, ["chacha20-poly1305", "aes-256-gcm"]);
});

Deno.test("AES is chosen only where both processors have instructions for it", () => {
  assertEquals(chooseCipher(withAes, withAes), "aes-256-gcm");
  assertEquals(chooseCipher(withAes, withoutAes), "chacha20-poly1305");
  assertEquals(chooseCipher(withoutAes, withAes), "chacha20-poly1305");
  assertEquals(chooseCipher(["aes-256-gcm"], withoutAes), "aes-256-gcm");
  assertEquals(chooseCipher([], withAes), undefined);
});

Deno.test("instructions for AES are found in /proc/cpuinfo of x86 and of arm64", () => {
  assertEquals(namesAes("processor\t: 0\nflags\t\t: fpu sse2 aes avx\n"), true);
  assertEquals(namesAes("Features\t: fp asimd evtstrm aes pmull\n"), true);
  assertEquals(namesAes("flags\t\t: fpu sse2 vaes avx\nbugs : aes\n"), false);
  assertEquals(namesAes("Features\t: fp asimd\n"), false);
  assertEquals(hasAesInstructions(), namesAes(Deno.readTextFileSync("/proc/cpuinfo")));
});
