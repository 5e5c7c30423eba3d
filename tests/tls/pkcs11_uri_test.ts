import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { TlsError } from "../../lib/errors.ts";
import { parsePkcs11Uri, pkcs11UriText, privateKeysOfToken } from "../../lib/tls/pkcs11_uri.ts";

Deno.test("a URI is read into the name of its key and what opens the token", () => {
  assertEquals(
    parsePkcs11Uri("pkcs11:token=a%20b;object=web;type=private?pin-source=file:/etc/pin%20file"),
    { name: "pkcs11:token=a%20b;object=web;type=private", pinFile: "/etc/pin file" },
  );
  assertEquals(
    parsePkcs11Uri("pkcs11:id=%00%FF;serial=1?pin-value=12%2634&module-path=/usr/lib/m.so"),
    { name: "pkcs11:id=%00%FF;serial=1;type=private", pin: "12&34", modulePath: "/usr/lib/m.so" },
  );
  assertEquals(parsePkcs11Uri("pkcs11:object=web?pin-source=pin").pinFile, "pin");
});

Deno.test("the name of all keys in a token has none of the key's own attributes", () => {
  const uri = parsePkcs11Uri("pkcs11:object=web;token=a;id=%01;serial=2?pin-value=1234");
  assertEquals(privateKeysOfToken(uri), "pkcs11:token=a;serial=2;type=private");
  assertEquals(privateKeysOfToken(parsePkcs11Uri("pkcs11:object=web")), "pkcs11:type=private");
});

Deno.test("a URI that is none, or not of a private key, is refused without a word of it", () => {
  for (
    const rest of [
      "",
      "token=secret1234",
      "object=a;object=secret1234",
      "object=secret1234;type=cert",
      "object=a;pin-value=secret1234",
      "object=a;secret1234",
      "object=secret 1234",
      "object=secret1234%0",
      "object=secret1234%00",
      "object=",
      "object=a?secret1234",
      "object=a?pin=secret1234",
      "object=a?pin-value=secret1234&pin-source=b",
      "object=a?pin-value=secret1234&pin-value=b",
      "object=a?pin-value=secret1234%FF",
      "object=a?pin-source=|secret1234",
      "object=a?pin-source=file://secret1234/b",
    ]
  ) {
    const { code, message, remedy } = assertThrows(
      () => parsePkcs11Uri(`pkcs11:${rest}`),
      TlsError,
    );
    assertEquals(code, "bad_key_uri", rest);
    assert(!`${message}${remedy}`.includes("1234"), rest);
  }
});

const word = fc.string({ unit: "grapheme", minLength: 1 }).filter((text) => !text.includes("\0"));

Deno.test("a URI is read as it was written", () => {
  fc.assert(fc.property(word, word, word, word, (token, object, pin, modulePath) => {
    const [first, second] = [encodeURIComponent(token), encodeURIComponent(object)];
    const uri = { name: `pkcs11:token=${first};object=${second};type=private`, pin, modulePath };
    assertEquals(parsePkcs11Uri(pkcs11UriText(uri)), uri);
  }));
});

Deno.test("any text after the scheme is either read or refused in order", () => {
  fc.assert(fc.property(fc.string({ unit: "binary" }), (text) => {
    try {
      parsePkcs11Uri(`pkcs11:object=${text}`);
    } catch (error) {
      assert(error instanceof TlsError);
    }
  }));
});
