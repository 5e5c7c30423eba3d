import ipaddr from "ipaddr.js";
import { cString } from "../../../ffi/layout.ts";
import { C, check, ifreq, libc } from "../../../ffi/libc.ts";
import { RdmaError } from "../../errors.ts";

/**
 * MTU of the interface that has an address: bytes of the largest IP packet (netdevice(7)).
 *
 * @param address 4 or 16 octets
 * @throws RdmaError `no_such_address` when no interface of this host has it
 */
export function interfaceMtu(address: Uint8Array): number {
  const request = ifreq.allocate().set("ifr_name", cString(interfaceOf(address)));
  const socket = check("socket", libc().socket(C.AF_INET, C.SOCK_DGRAM | C.SOCK_CLOEXEC, 0));
  try {
    check("ioctl", libc().ioctl(socket, BigInt(C.SIOCGIFMTU), request.pointer));
    return request.get("ifr_mtu");
  } finally {
    libc().close(socket);
  }
}

function interfaceOf(address: Uint8Array): string {
  const wanted = ipaddr.fromByteArray([...address]);
  const owner = Deno.networkInterfaces().find((entry) => has(ipaddr.parse(entry.address), wanted));
  if (owner) return owner.name;
  throw new RdmaError(
    "no_such_address",
    `no network interface of this host has the address ${wanted}`,
    "use one that `ip address` lists",
  );
}

/** The loopback interface has all of 127.0.0.0/8. */
function has(own: ipaddr.IPv4 | ipaddr.IPv6, wanted: ipaddr.IPv4 | ipaddr.IPv6): boolean {
  if (own.kind() !== wanted.kind()) return false;
  return own.toString() === wanted.toString() ||
    (own.range() === "loopback" && wanted.range() === "loopback");
}
