import { assertEquals } from "@std/assert";
import { isPlain } from "../../lib/control/plain_json.ts";

const plain = (json: string) => isPlain(new TextEncoder().encode(json));

Deno.test("JSON as messages have it is plain, whatever stands in its texts", () => {
  const body = { rkeys: [1, 2, 3], window: { address: "1" }, flag: true, none: null };
  for (
    const text of ["", '"', "\\", '\\"', "[{]}".repeat(100), '",[{\\'.repeat(100), "\n\u{1f600}"]
  ) {
    const json = JSON.stringify({ id: 1, body: { ...body, path: text, [text]: 1 } });
    assertEquals(plain(json), true, json);
  }
});

const many = (value: unknown) => Array(65).fill(value);
const refused: [what: string, json: string][] = [
  ["arrays within each other", "[".repeat(5) + "]".repeat(5)],
  ["objects within each other", '{"a":'.repeat(5) + "1" + "}".repeat(5)],
  ["an array of many numbers", JSON.stringify(many(1))],
  ["an array of many empty objects", JSON.stringify(many({}))],
  ["an object of many keys", JSON.stringify(Object.fromEntries(Object.entries(many(1))))],
  ["many values after a text that ends in a backslash", JSON.stringify(["\\", ...many(1)])],
  ["many values after a text that ends in a quote", JSON.stringify(['"', ...many(1)])],
  ["what is no JSON", "[[[[["],
];

for (const [what, json] of refused) {
  Deno.test(`${what}: not plain`, () => assertEquals(plain(json), false));
}
