import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { formatGid, gidOfAddress, isGid, parseGid } from "../../lib/rdma/address.ts";

Deno.test("every GID survives being written and read", () => {
  fc.assert(fc.property(fc.uint8Array({ minLength: 16, maxLength: 16 }), (octets) => {
    assertEquals([...parseGid(formatGid(octets))], [...octets]);
  }));
});

Deno.test("the GID of an IPv4 address is the mapped one, whatever form the address has", () => {
  assertEquals(gidOfAddress("10.9.0.1"), "::ffff:10.9.0.1");
  assertEquals(gidOfAddress("::ffff:10.9.0.1"), "::ffff:10.9.0.1");
  assertEquals(gidOfAddress("fe80::1%eth0"), "fe80::1");
});

Deno.test("what is not a GID is refused", () => {
  for (const text of ["", "10.9.0.1", "::1%eth0", "1:2:3", "gid"]) {
    assertEquals(isGid(text), false, text);
    assertThrows(() => parseGid(text), Error, "is not a GID");
  }
});
