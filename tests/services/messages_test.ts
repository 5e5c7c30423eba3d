import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { reverse } from "../../lib/services/messages.ts";

const reversed = (text: string) =>
  new TextDecoder().decode(reverse(new TextEncoder().encode(text)));

Deno.test("text is reversed by characters, whatever bytes they take", () => {
  assertEquals(reversed("Grüße, 世界 🎈"), "🎈 界世 ,eßürG");
  assertEquals(reversed("\ufeffab"), "ba\ufeff", "a byte order mark is a character too");
  assertEquals(reversed(""), "");
});

Deno.test("what is no text is reversed by bytes", () => {
  assertEquals([...reverse(new Uint8Array([1, 2, 0xff]))], [0xff, 2, 1]);
});

Deno.test("text reversed twice is as it was, and no shorter in between", () => {
  fc.assert(fc.property(fc.string({ unit: "binary" }), (text) => {
    const bytes = new TextEncoder().encode(text);
    assertEquals(reverse(bytes).length, bytes.length);
    assertEquals(reverse(reverse(bytes)), bytes);
  }));
});

Deno.test("the body that came is not changed", () => {
  fc.assert(fc.property(fc.uint8Array(), (bytes) => {
    const before = bytes.slice();
    reverse(bytes);
    assertEquals(bytes, before);
  }));
});
