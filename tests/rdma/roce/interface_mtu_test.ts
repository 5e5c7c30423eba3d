import { assert, assertEquals, assertThrows } from "@std/assert";
import ipaddr from "ipaddr.js";
import { libc } from "../../../ffi/libc.ts";
import { RdmaError } from "../../../lib/errors.ts";
import { interfaceMtu } from "../../../lib/rdma/roce/interface_mtu.ts";

// Deno's check for leaks wants libraries loaded before the first test.
libc();

const octets = (address: string) => new Uint8Array(ipaddr.parse(address).toByteArray());

/** What the kernel shows of the interface elsewhere. */
async function mtuInSysfs(name: string): Promise<number> {
  return Number(await Deno.readTextFile(`/sys/class/net/${name}/mtu`));
}

Deno.test("the MTU of an address is that of its interface", async () => {
  for (const { name, address } of Deno.networkInterfaces()) {
    assertEquals(interfaceMtu(octets(address)), await mtuInSysfs(name), `${address} of ${name}`);
  }
});

Deno.test("all of 127.0.0.0/8 belongs to the loopback interface", async () => {
  assertEquals(interfaceMtu(octets("127.0.0.1")), await mtuInSysfs("lo"));
  assertEquals(interfaceMtu(octets("127.1.2.3")), await mtuInSysfs("lo"));
});

Deno.test("an address that no interface has is refused with a remedy", () => {
  for (const address of ["192.0.2.77", "2001:db8::1"]) {
    const error = assertThrows(() => interfaceMtu(octets(address)), RdmaError, address);
    assertEquals(error.code, "no_such_address");
    assert(error.remedy !== "");
  }
});
