import ipaddr from "ipaddr.js";
import { RdmaError } from "../errors.ts";

/** Global identifier of a port in IPv6 notation; `::ffff:a.b.c.d` for RoCE over IPv4 (IBTA volume 1, section 4.1.1; Annex A17). */
export type Gid = string;

/** What a GID's packets look like on the wire. */
export type GidType = "InfiniBand" | "RoCE v1" | "RoCE v2";

/** Queue pair numbers and packet sequence numbers have 24 bits (IBTA volume 1, section 9.2). */
export const MAX_24_BITS = 0xff_ffff;

/** Path MTUs in bytes; enum ibv_mtu counts from 1 for 256. */
export const PATH_MTUS = [256, 512, 1024, 2048, 4096] as const;

export type PathMtu = typeof PATH_MTUS[number];

/** The MTU that an enum ibv_mtu value stands for. */
export function pathMtuFromEnum(value: number): PathMtu {
  const mtu = PATH_MTUS[value - 1];
  if (mtu === undefined) {
    throw new RdmaError("mtu_unknown", `the device reports path MTU code ${value}`);
  }
  return mtu;
}

/** The enum ibv_mtu value of an MTU. */
export function pathMtuToEnum(mtu: PathMtu): number {
  return PATH_MTUS.indexOf(mtu) + 1;
}

/** Text of 16 octets. */
export function formatGid(octets: Uint8Array): Gid {
  const address = ipaddr.fromByteArray([...octets]) as ipaddr.IPv6;
  return address.isIPv4MappedAddress()
    ? `::ffff:${address.toIPv4Address().toString()}`
    : address.toString();
}

/** Whether `text` is a GID in IPv6 notation. */
export function isGid(text: string): boolean {
  return ipaddr.IPv6.isValid(text) && !text.includes("%");
}

/**
 * The 16 octets of a GID.
 *
 * @throws RdmaError when the text is not IPv6 notation
 */
export function parseGid(gid: Gid): Uint8Array<ArrayBuffer> {
  if (!isGid(gid)) throw new RdmaError("gid_invalid", `${JSON.stringify(gid)} is not a GID`);
  return new Uint8Array(ipaddr.IPv6.parse(gid).toByteArray());
}

/** The RoCE v2 GID of an IP address: an IPv4 address is mapped, an IPv6 address is its own. */
export function gidOfAddress(address: string): Gid {
  const parsed = ipaddr.parse(address.replace(/%.*$/, ""));
  const v6 = parsed.kind() === "ipv4" ? (parsed as ipaddr.IPv4).toIPv4MappedAddress() : parsed;
  return formatGid(new Uint8Array(v6.toByteArray()));
}
