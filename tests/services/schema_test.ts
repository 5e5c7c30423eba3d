import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import * as v from "valibot";
import { ProtocolError } from "../../lib/errors.ts";
import { fileRequest } from "../../lib/services/file_protocol.ts";
import { decimal, parse, u32 } from "../../lib/services/schema.ts";

Deno.test("sizes are decimal strings up to 2^53, in one way of writing each", () => {
  fc.assert(fc.property(fc.maxSafeNat(), (size) => parse(decimal, String(size)) === String(size)));
  for (const text of ["", "-1", "+1", "01", "1.0", "1e3", " 1", "0x10", "9007199254740992"]) {
    assertThrows(() => parse(decimal, text), ProtocolError);
  }
  assertThrows(() => parse(decimal, 1), ProtocolError);
});

Deno.test("an error names the field that is wrong", () => {
  const schema = v.strictObject({ key: u32, inner: v.strictObject({ size: decimal }) });
  const wrong: [unknown, string][] = [
    [{ key: 2 ** 32, inner: { size: "1" } }, "key"],
    [{ key: 1, inner: { size: 1 } }, "inner.size"],
    [{ key: 1, inner: { size: "1" }, more: 1 }, "more"],
    [null, "body"],
  ];
  for (const [body, field] of wrong) {
    const error = assertThrows(() => parse(schema, body), ProtocolError, field);
    assertEquals(error.code, "schema");
  }
});

Deno.test("an error is short, however long the names of fields are that a peer sends", () => {
  const name = "n".repeat(60_000);
  const { message } = assertThrows(() => parse(v.strictObject({}), { [name]: 1 }), ProtocolError);
  assert(message.length < 400, `${message.length} characters`);
});

const window = { address: "4096", buffers: 2, bufferBytes: 262144 };
const put = { operation: "put", transfer: 1, path: "file", size: "5", window };

Deno.test("a file request is taken as it is meant, or refused", () => {
  assertEquals(parse(fileRequest, put), put as v.InferOutput<typeof fileRequest>);
  const wrong: Record<string, unknown>[] = [
    { operation: "delete" },
    { transfer: -1 },
    { path: "" },
    { path: "x".repeat(4097) },
    { size: "-5" },
    { size: 5 },
    { window: { ...window, buffers: 0 } },
    { window: { ...window, buffers: 17 } },
    { window: { ...window, bufferBytes: 2 ** 30 } },
    { window: { ...window, rkey: 1 } },
    { window: { ...window, address: "0x1000" } },
    { extra: true },
  ];
  for (const change of wrong) {
    assertThrows(() => parse(fileRequest, { ...put, ...change }), ProtocolError);
  }
});

Deno.test("a get brings one rkey for each of its buffers, or is refused", () => {
  const get = { operation: "get", transfer: 1, path: "file", window, rkeys: [0, 2 ** 32 - 1] };
  assertEquals(parse(fileRequest, get), get as v.InferOutput<typeof fileRequest>);
  for (const rkeys of [undefined, [], [1], [1, 2, 3], [1, 2 ** 32], [1, -1], ["1", "2"], {}]) {
    assertThrows(() => parse(fileRequest, { ...get, rkeys }), ProtocolError);
  }
});

Deno.test("whatever JSON a request has, it is taken or refused with a name", () => {
  fc.assert(fc.property(fc.jsonValue(), (body) => {
    try {
      parse(fileRequest, body);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
    }
  }));
});
