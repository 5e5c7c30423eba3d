import { assertEquals, assertThrows } from "@std/assert";
import { InvalidArgumentError } from "commander";
import {
  byteSize,
  duration,
  endpoint,
  host,
  listenAddress,
  type Parse,
  repeated,
  wholeNumber,
} from "../../lib/cli/values.ts";

function assertRefused<T>(parse: Parse<T>, texts: string[]): void {
  for (const text of texts) {
    const { message } = assertThrows(() => parse(text), InvalidArgumentError);
    assertEquals(/^[A-Z"].*\.$/.test(message), true, `no sentence: ${message}`);
  }
}

Deno.test("a whole number is taken within its range only", () => {
  const parse = wholeNumber(1, 65535);
  assertEquals([parse("1"), parse("65535")], [1, 65535]);
  assertRefused(parse, ["0", "65536", "-1", "1.5", "", " 1", "1e3", "0x10", "one", "99999999999"]);
});

Deno.test("a size is in bytes or binary multiples of them", () => {
  const parse = byteSize(0, 2 ** 50);
  const sizes = ["4096", "4k", "4KiB", "1M", "1mib", "2G", "1T"].map(parse);
  assertEquals(sizes, [4096, 4096, 4096, 2 ** 20, 2 ** 20, 2 ** 31, 2 ** 40]);
  assertRefused(parse, ["", "k", "4 k", "4kB", "1MB", "1.5k", "-1", "4096T", "1ib"]);
  assertRefused(byteSize(1, 1024), ["0", "2k"]);
});

Deno.test("a duration is in seconds unless it says otherwise", () => {
  const parse = duration(0.1, 3600);
  assertEquals(["30", "1.5", "2s", "500ms", "5m", "1h"].map(parse), [30, 1.5, 2, 0.5, 300, 3600]);
  assertRefused(parse, ["", "s", "1d", "-1", "1 s", "1e3", "50ms", "2h", ".5"]);
});

Deno.test("an endpoint is a host with or without a port, IPv6 addresses in brackets", () => {
  const parse = endpoint(4433);
  assertEquals(parse("storage.example"), { hostname: "storage.example", port: 4433 });
  assertEquals(parse("storage.example:1"), { hostname: "storage.example", port: 1 });
  assertEquals(parse("10.0.0.1:5000"), { hostname: "10.0.0.1", port: 5000 });
  assertEquals(parse("[fe80::1]:5000"), { hostname: "fe80::1", port: 5000 });
  assertEquals(parse("[::1]"), { hostname: "::1", port: 4433 });
  assertEquals(parse("::1"), { hostname: "::1", port: 4433 });
  assertRefused(parse, [
    "",
    ":1",
    "host:",
    "host:0",
    "host:65536",
    "host:x",
    "[::1",
    "[10.0.0.1]:1",
  ]);
  assertRefused(parse, ["a:b:c", "[host]:1", "a b:1"]);
});

Deno.test("where to listen has a port, and a host unless the program has one", () => {
  assertEquals(listenAddress(":4242"), { port: 4242 });
  assertEquals(listenAddress(":0"), { port: 0 });
  assertEquals(listenAddress("localhost:1"), { hostname: "localhost", port: 1 });
  assertEquals(listenAddress("10.0.0.1:5000"), { hostname: "10.0.0.1", port: 5000 });
  assertEquals(listenAddress("[::]:4242"), { hostname: "::", port: 4242 });
  assertRefused(listenAddress, ["", "4242", "host", "host:", "::1", "::1:4242", ":65536", ":x"]);
  assertRefused(listenAddress, ["a:1:2", "[host]:1", "[10.0.0.1]:1", "[]:1", "a b:1"]);
});

Deno.test("a host is a name or an address, and an international name is put into ASCII", () => {
  assertEquals(
    ["localhost", "a-1.example.", "10.0.0.1", "fe80::1", "bücher.example"].map(host),
    ["localhost", "a-1.example", "10.0.0.1", "fe80::1", "xn--bcher-kva.example"],
  );
  assertRefused(host, ["", "-a", "a..b", "a b", "a/b", "a\nb", "x".repeat(64)]);
});

Deno.test("a repeated option keeps all its values", () => {
  const parse = repeated(host);
  assertEquals(parse("b", parse("a", undefined)), ["a", "b"]);
});
