import ipaddr from "ipaddr.js";
import { C, libc } from "../../ffi/libc.ts";
import { TlsError } from "../errors.ts";

/** struct sockaddr_storage. */
const addressLength = 128;

/**
 * The file descriptor of a socket of this process, which Deno does not show; undefined where there
 * is none. All calls on it must follow at once, without awaiting: Deno may close it meanwhile.
 *
 * @param peer undefined for a socket that listens
 * @param other another one of the same address, which is not meant
 */
export function descriptorOf(
  local: Deno.NetAddr,
  peer?: Deno.NetAddr,
  other?: number,
): number | undefined {
  if (peer) return connected(local, peer) ?? (lookAround(), connected(local, peer));
  return Iterator.from(openDescriptors()).find((descriptor) =>
    descriptor !== other && listens(descriptor) && isAt(libc().getsockname, descriptor, local)
  );
}

/**
 * The same, of a socket that is known to be open.
 *
 * @throws TlsError `descriptor_lost` if it is not found all the same
 */
export function openDescriptor(local: Deno.NetAddr, peer?: Deno.NetAddr): number {
  const found = descriptorOf(local, peer);
  if (found !== undefined) return found;
  throw new TlsError("descriptor_lost", "The descriptor of a socket of this process is not found");
}

/** Connections by their ports, when all were looked at last: whoever ends many asks for each. */
const seen = new Map<number, number[]>();

/** Among those seen, which may be others by now. */
function connected(local: Deno.NetAddr, peer: Deno.NetAddr): number | undefined {
  const { getpeername, getsockname } = libc();
  return seen.get(portsKey(local.port, peer.port))?.find((descriptor) =>
    isAt(getpeername, descriptor, peer) && isAt(getsockname, descriptor, local)
  );
}

function lookAround(): void {
  const { getpeername, getsockname } = libc();
  seen.clear();
  for (const descriptor of openDescriptors()) {
    const peerPort = portAt(getpeername, descriptor);
    if (peerPort === undefined) continue;
    const key = portsKey(portAt(getsockname, descriptor) ?? 0, peerPort);
    seen.set(key, [...seen.get(key) ?? [], descriptor]);
  }
}

function portsKey(localPort: number, peerPort: number): number {
  return localPort << 16 | peerPort;
}

/** Where none is left to read the list with, all numbers up to the limit are in use. */
function openDescriptors(): Iterable<number> {
  try {
    return Array.from(Deno.readDirSync("/proc/self/fd"), ({ name }) => Number(name));
  } catch {
    return upToFirstClosed();
  }
}

function* upToFirstClosed(): Generator<number> {
  for (let descriptor = 0; libc().fcntl(descriptor, C.F_GETFL, 0) >= 0; descriptor++) {
    yield descriptor;
  }
}

/** Where addresses are written to, one at a time. */
const address = new Uint8Array(addressLength);
const view = new DataView(address.buffer);
const family = new Uint16Array(address.buffer, 0, 1);
const length = new Uint32Array(1);

type NameCall = (descriptor: number, address: BufferSource, length: BufferSource) => number;

/** A connection that was reset has no peer any more either. */
function listens(descriptor: number): boolean {
  const answer = new Int32Array(1);
  length[0] = answer.byteLength;
  const { getsockopt } = libc();
  return getsockopt(descriptor, C.SOL_SOCKET, C.SO_ACCEPTCONN, answer, length) === 0 &&
    answer[0] === 1;
}

function portAt(call: NameCall, descriptor: number): number | undefined {
  length[0] = addressLength;
  return call(descriptor, address, length) === 0 ? view.getUint16(2) : undefined;
}

/** Whether a socket's address, as `call` tells it, is `expected`. */
function isAt(call: NameCall, descriptor: number, expected: Deno.NetAddr): boolean {
  length[0] = addressLength;
  if (call(descriptor, address, length) !== 0) return false;
  if (view.getUint16(2) !== expected.port) return false;
  const bytes = ipaddr.parse(expected.hostname).toByteArray();
  const [at, count] = family[0] === C.AF_INET6 ? [8, 16] : [4, 4];
  return bytes.length === count && bytes.every((byte, index) => address[at + index] === byte);
}

/**
 * Switches TCP_NODELAY and SO_KEEPALIVE on for a listening socket, and so for all that it accepts:
 * on Linux they inherit both.
 */
export function setAcceptedOptions(descriptor: number): void {
  const on = Int32Array.of(1);
  libc().setsockopt(descriptor, C.SOL_SOCKET, C.SO_KEEPALIVE, on, on.byteLength);
  libc().setsockopt(descriptor, C.IPPROTO_TCP, C.TCP_NODELAY, on, on.byteLength);
}

/**
 * Ends a connection for the kernel. Deno's `close` alone leaves the socket open for as long as a
 * peer stops in the middle of a handshake, or does not read what is being written to it.
 */
export function shutDown(connection: Deno.Conn<Deno.NetAddr>): void {
  const descriptor = descriptorOf(connection.localAddr, connection.remoteAddr);
  if (descriptor !== undefined) libc().shutdown(descriptor, C.SHUT_RDWR);
}
