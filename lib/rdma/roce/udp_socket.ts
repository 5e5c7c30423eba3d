/** UDP sockets as the embedded provider has them. */
import { constants } from "node:os";
import { C, check, errno, errnoName, libc, sockaddrIn6 } from "../../../ffi/libc.ts";
import { RdmaError } from "../../errors.ts";
import type { Endpoint } from "./endpoint.ts";

const { EADDRINUSE, EADDRNOTAVAIL } = constants.errno;

/** Bytes asked of the system for either direction; without CAP_NET_ADMIN it grants net.core.rmem_max at most. */
const BUFFER_BYTES = 16 * 1024 * 1024;

/** The same for a socket of one peer: twice what a peer of ours has on its way (congestion.ts), and kernel's overhead. */
const PEER_BUFFER_BYTES = 2 * 1024 * 1024;

/**
 * One that all may send to, and the port that it has.
 *
 * @param wanted port 0 lets the system choose
 * @throws RdmaError `udp_port_taken`, `no_such_address`, or `udp_socket_failed` for other reasons
 */
export function boundSocket(wanted: Endpoint): { socket: number; port: number } {
  const socket = openSocket(wanted.isIpv4);
  if (socket < 0) throw openError("socket", wanted, errno());
  try {
    configure(socket, wanted.isIpv4, BUFFER_BYTES);
    if (libc().bind(socket, wanted.sockaddr, wanted.sockaddr.length) < 0) {
      throw openError("bind", wanted, errno());
    }
    return { socket, port: portOf(socket) };
  } catch (error) {
    libc().close(socket);
    throw error;
  }
}

/** One for the packets of a single peer, neither bound nor connected; negative when the system has none. */
export function peerSocket({ isIpv4 }: Endpoint): number {
  const socket = openSocket(isIpv4);
  if (socket >= 0) configure(socket, isIpv4, PEER_BUFFER_BYTES);
  return socket;
}

function portOf(socket: number): number {
  const name = new Uint8Array(sockaddrIn6.size);
  check("getsockname", libc().getsockname(socket, name, new Uint32Array([name.length])));
  return new DataView(name.buffer).getUint16(sockaddrIn6.offset("sin6_port"));
}

/** Whether the kernel cuts messages into packets (UDP_SEGMENT of udp(7)). */
export function canCut(socket: number): boolean {
  return setOption(socket, C.SOL_UDP, C.UDP_SEGMENT, 0) >= 0;
}

/** Negative when the system has none. */
function openSocket(isIpv4: boolean): number {
  const type = C.SOCK_DGRAM | C.SOCK_NONBLOCK | C.SOCK_CLOEXEC;
  return libc().socket(isIpv4 ? C.AF_INET : C.AF_INET6, type, 0);
}

/** @param bufferBytes for either direction */
function configure(socket: number, isIpv4: boolean, bufferBytes: number): void {
  // DF is set, and "fragmentation needed" of ICMP is ignored: the path MTU is agreed in the exchange,
  // and anyone who guesses two addresses could forge such a message.
  if (isIpv4) {
    checkOption(socket, C.IPPROTO_IP, C.IP_MTU_DISCOVER, C.IP_PMTUDISC_PROBE);
  } else {
    checkOption(socket, C.IPPROTO_IPV6, C.IPV6_V6ONLY, 1);
    checkOption(socket, C.IPPROTO_IPV6, C.IPV6_MTU_DISCOVER, C.IPV6_PMTUDISC_PROBE);
    // RoCEv2 needs no UDP checksum, and rdma_rxe and NICs send none: the ICRC is there.
    checkOption(socket, C.SOL_UDP, C.UDP_NO_CHECK6_RX, 1);
  }
  enlarge(socket, C.SO_RCVBUFFORCE, C.SO_RCVBUF, bufferBytes);
  enlarge(socket, C.SO_SNDBUFFORCE, C.SO_SNDBUF, bufferBytes);
  // Without it the kernel passes packets on one by one.
  setOption(socket, C.SOL_UDP, C.UDP_GRO, 1);
}

/** The first asks for more than net.core.rmem_max and wmem_max, and needs CAP_NET_ADMIN. */
function enlarge(socket: number, force: number, usual: number, bytes: number): void {
  if (setOption(socket, C.SOL_SOCKET, force, bytes) < 0) {
    setOption(socket, C.SOL_SOCKET, usual, bytes);
  }
}

function checkOption(socket: number, level: number, option: number, value: number): void {
  check("setsockopt", setOption(socket, level, option, value));
}

function setOption(socket: number, level: number, option: number, value: number): number {
  const bytes = Int32Array.of(value);
  return libc().setsockopt(socket, level, option, bytes, bytes.byteLength);
}

function openError(call: string, endpoint: Endpoint, error: number): RdmaError {
  if (error === EADDRINUSE) {
    return new RdmaError(
      "udp_port_taken",
      `UDP port ${endpoint.port} of this address is in use: ${endpoint}`,
      "end the program that has it (ss -ulpn), or unload rdma_rxe, which has port 4791 of all addresses",
    );
  }
  if (error === EADDRNOTAVAIL) {
    return new RdmaError(
      "no_such_address",
      `no network interface of this host has the address of ${endpoint}`,
      "use an address that `ip address` lists",
    );
  }
  return new RdmaError(
    "udp_socket_failed",
    `${call} failed with ${errnoName(error)} for ${endpoint}`,
    "check that this program may open UDP sockets, and that the address is neither link-local nor multicast",
  );
}
