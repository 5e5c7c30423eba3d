import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { UsageError } from "../../lib/errors.ts";
import { parsePin, pinOf } from "../../lib/tls/pin.ts";

/** An Ed25519 public key (RFC 8410, section 10.1) and what openssl says of it. */
const spki = Uint8Array.fromBase64("MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=");

async function digestByOpenssl(bytes: Uint8Array): Promise<Uint8Array> {
  const child = new Deno.Command("openssl", {
    args: ["dgst", "-sha256", "-binary"],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(bytes);
  await writer.close();
  return (await child.output()).stdout;
}

Deno.test("a pin is the SHA-256 that openssl computes, in base64 or in hexadecimal digits", async () => {
  const digest = await digestByOpenssl(spki);
  assertEquals(pinOf(spki), `sha256:${digest.toBase64()}`);
  assertEquals(parsePin(`sha256:${digest.toHex()}`), pinOf(spki));
  assertEquals(parsePin(`sha256:${digest.toHex().toUpperCase()}`), pinOf(spki));
});

Deno.test("a pin that was printed is understood again", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
    assertEquals(parsePin(pinOf(bytes)), pinOf(bytes));
  }));
});

Deno.test("every 32 bytes have one pin, however they are written", () => {
  fc.assert(fc.property(fc.uint8Array({ minLength: 32, maxLength: 32 }), (bytes) => {
    const pin = `sha256:${bytes.toBase64()}`;
    assertEquals([parsePin(pin), parsePin(`sha256:${bytes.toHex()}`)], [pin, pin]);
  }));
});

Deno.test("what is no pin is refused, with the command that prints one", () => {
  const digits = "0".repeat(64);
  const wrong = [
    ...["", "sha256:", digits, `md5:${digits}`, `sha256:${digits}0`, `sha256:${digits.slice(1)}`],
    ...[`sha256:${"A".repeat(43)}`, `sha256:${"A".repeat(42)}B=`, `sha256:${"A".repeat(44)}`],
    ...[`sha256:${digits}\n`, ` sha256:${digits}`, `sha256:${"_".repeat(43)}=`],
  ];
  for (const text of wrong) {
    const error = assertThrows(() => parsePin(text), UsageError, "is no pin");
    assertEquals(error.remedy.includes("verbseal certs pin"), true);
  }
});
