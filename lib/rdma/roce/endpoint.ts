import ipaddr from "ipaddr.js";
import { addressOf, pointerOf } from "../../../ffi/layout.ts";
import { C, sockaddrIn, sockaddrIn6 } from "../../../ffi/libc.ts";
import { type Gid, parseGid } from "../address.ts";
import { IcrcPrefix } from "./icrc.ts";

/** UDP port of RoCEv2 (Annex A17, section A17.4.5.1). */
export const ROCE_UDP_PORT = 4791;

/** IP version and octets of the address that a RoCE v2 GID is. */
export function addressOfGid(gid: Gid): Uint8Array<ArrayBuffer> {
  const octets = parseGid(gid);
  return ipaddr.IPv6.parse(gid).isIPv4MappedAddress() ? octets.slice(12) : octets;
}

/** A UDP address: 4 or 16 octets and a port, also as the kernel takes it. */
export class Endpoint {
  /** struct sockaddr_in or sockaddr_in6. */
  readonly sockaddr: Uint8Array<ArrayBuffer>;
  /** Where {@linkcode sockaddr} stands, for struct msghdr. Valid while this object is reachable. */
  readonly sockaddrAddress: number;

  constructor(readonly address: Uint8Array<ArrayBuffer>, readonly port: number) {
    const v4 = address.length === 4;
    const layout = v4 ? sockaddrIn : sockaddrIn6;
    this.sockaddr = new Uint8Array(new ArrayBuffer(layout.size));
    const view = new DataView(this.sockaddr.buffer);
    view.setUint16(0, v4 ? C.AF_INET : C.AF_INET6, true);
    view.setUint16(2, port, false);
    this.sockaddr.set(
      address,
      v4 ? sockaddrIn.offset("sin_addr") : sockaddrIn6.offset("sin6_addr"),
    );
    this.sockaddrAddress = Number(addressOf(pointerOf(this.sockaddr)));
  }

  /** The octets as four words in memory order; those of IPv4 are the first. For comparison. */
  get words(): Uint32Array<ArrayBuffer> {
    const octets = new Uint8Array(new ArrayBuffer(16));
    octets.set(this.address);
    return new Uint32Array(octets.buffer);
  }

  get isIpv4(): boolean {
    return this.address.length === 4;
  }

  /** Text as in URLs: 10.0.0.1:4791, [fd00::1]:4791. */
  toString(): string {
    const address = ipaddr.fromByteArray([...this.address]).toString();
    return this.isIpv4 ? `${address}:${this.port}` : `[${address}]:${this.port}`;
  }
}

/** A peer's endpoint as packets are sent to it, with what the ICRC of each begins with. */
export class Destination {
  readonly icrc: IcrcPrefix;

  constructor(local: Endpoint, readonly remote: Endpoint) {
    this.icrc = new IcrcPrefix(local, remote);
  }
}
