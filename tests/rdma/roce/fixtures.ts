/** Packets of rdma_rxe, as capture_fixtures.ts recorded them, with what tshark reads in them. */
import { crc32 } from "node:zlib";
import { decodeHex } from "@std/encoding/hex";

/** A packet of fixtures/*.json, as tshark reads it, numbers of 64 bits as text. */
export interface Fixture {
  /** The packet from its IP header on, as hexadecimal digits. */
  readonly ip: string;
  readonly opcode: number;
  readonly solicited: boolean;
  /** The M bit, which says that path migration has been done. */
  readonly migrated: boolean;
  readonly padBytes: number;
  readonly pkey: number;
  readonly destQpn: number;
  readonly ackRequested: boolean;
  readonly psn: number;
  readonly payloadBytes: number;
  readonly reth?: { readonly address: string; readonly rkey: number; readonly dmaLength: number };
  readonly atomicEth?: {
    readonly address: string;
    readonly rkey: number;
    readonly swap: string;
    readonly compare: string;
  };
  readonly aeth?: { readonly syndrome: number; readonly msn: number };
  readonly atomicAckEth?: { readonly original: string };
  readonly immediate?: number;
}

/** What a file of fixtures holds. */
export interface FixtureFile {
  readonly comment: string;
  readonly packets: readonly Fixture[];
}

export const IP_VERSIONS = ["IPv4", "IPv6"] as const;

export type IpVersion = typeof IP_VERSIONS[number];

/** Where the packets over one version of IP are kept. */
export function fixturePath(version: IpVersion): URL {
  return new URL(`./fixtures/rxe_${version.toLowerCase()}.json`, import.meta.url);
}

/** The packets over one version of IP, in the order of the wire. */
export function fixtures(version: IpVersion): readonly Fixture[] {
  const file: FixtureFile = JSON.parse(Deno.readTextFileSync(fixturePath(version)));
  return file.packets;
}

/** Addresses and contents of an IP packet that carries UDP. */
export interface Datagram {
  readonly from: { readonly address: Uint8Array<ArrayBuffer>; readonly port: number };
  readonly to: { readonly address: Uint8Array<ArrayBuffer>; readonly port: number };
  /** IP ID; 0 over IPv6. */
  readonly id: number;
  /** From the BTH to the ICRC. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

const UDP_BYTES = 8;
const ICRC_BYTES = 4;

/** Takes a fixture apart: an IP header without options, a UDP header, and what UDP carries. */
export function datagramOf({ ip }: Fixture): Datagram {
  const packet = decodeHex(ip);
  const view = new DataView(packet.buffer);
  const isIpv4 = packet[0]! >> 4 === 4;
  const [addresses, addressBytes] = isIpv4 ? [12, 4] : [8, 16];
  const udp = addresses + 2 * addressBytes;
  const side = (at: number, port: number) => ({
    address: packet.slice(at, at + addressBytes),
    port: view.getUint16(port),
  });
  return {
    from: side(addresses, udp),
    to: side(addresses + addressBytes, udp + 2),
    id: isIpv4 ? view.getUint16(4) : 0,
    bytes: packet.slice(udp + UDP_BYTES),
  };
}

/**
 * The ICRC of an IP packet with IP ID `id`, made in the plain way from all its bytes (Annex A17, section
 * A17.3.3): what the library's ICRC has to come to.
 *
 * @param fragment flags and fragment offset of IPv4; DF unless told
 */
export function referenceIcrc(fixture: Fixture, id: number, fragment = 0x4000): number {
  const packet = decodeHex(fixture.ip);
  const isIpv4 = packet[0]! >> 4 === 4;
  const udp = isIpv4 ? 20 : 40;
  if (isIpv4) {
    new DataView(packet.buffer).setUint32(4, (id << 16) | fragment);
    for (const masked of [1, 8, 10, 11]) packet[masked] = 0xff; // type of service, TTL, checksum
  } else {
    packet[0]! |= 0x0f;
    for (const masked of [1, 2, 3, 7]) packet[masked] = 0xff; // traffic class, flow label, hop limit
  }
  for (const masked of [udp + 6, udp + 7, udp + 12]) packet[masked] = 0xff; // checksum, BTH's variant
  const leading = crc32(new Uint8Array(8).fill(0xff));
  return crc32(packet.subarray(0, -ICRC_BYTES), leading);
}

/** The ICRC that a datagram bears: its last four bytes, the lowest first. */
export function icrcIn(bytes: Uint8Array<ArrayBuffer>): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(bytes.length - ICRC_BYTES, true);
}
