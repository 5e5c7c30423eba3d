import ipaddr from "ipaddr.js";
import { C, sockaddrIn, sockaddrIn6 } from "../../../ffi/libc.ts";
import { RdmaError } from "../../errors.ts";

/** A socket address in memory, for a call into C. */
export interface SocketAddress {
  readonly pointer: Deno.PointerObject;
}

/**
 * The C form of an IP address and port.
 *
 * @param address IPv4 or IPv6; a link-local one with its interface, as in fe80::1%eth0
 * @param port 0 to 65535
 * @throws RdmaError when the address is not an IP address, or its interface does not exist
 */
export function socketAddress(address: string, port: number): SocketAddress {
  const parsed = parseAddress(address);
  const networkPort = new Uint8Array([port >> 8, port & 0xff]);
  const octets = new Uint8Array(parsed.toByteArray());
  if (parsed instanceof ipaddr.IPv4) {
    return sockaddrIn.allocate()
      .set("sin_family", C.AF_INET).set("sin_port", networkPort).set("sin_addr", octets);
  }
  return sockaddrIn6.allocate()
    .set("sin6_family", C.AF_INET6).set("sin6_port", networkPort).set("sin6_addr", octets)
    .set("sin6_scope_id", parsed.zoneId === undefined ? 0 : scopeOf(parsed.zoneId));
}

/** @throws RdmaError when the text is not an IP address */
export function parseAddress(address: string): ipaddr.IPv4 | ipaddr.IPv6 {
  if (!ipaddr.isValid(address)) {
    throw new RdmaError("address_invalid", `${JSON.stringify(address)} is not an IP address`);
  }
  return ipaddr.parse(address);
}

function scopeOf(zone: string): number {
  const scope = Deno.networkInterfaces()
    .find(({ name, scopeid }) => name === zone && scopeid)?.scopeid;
  if (!scope) {
    throw new RdmaError("address_invalid", `no network interface ${zone} has a link-local address`);
  }
  return scope;
}

/** The IP address in a struct sockaddr_storage. */
export function addressIn(storage: Uint8Array): string {
  const bytes = new Uint8Array(storage);
  const octets = sockaddrIn.over(bytes).get("sin_family") === C.AF_INET
    ? sockaddrIn.over(bytes).get("sin_addr")
    : sockaddrIn6.over(bytes).get("sin6_addr");
  return ipaddr.process(ipaddr.fromByteArray([...octets]).toString()).toString();
}
