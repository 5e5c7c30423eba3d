import { constants } from "node:os";
import { pointerAt, textOf } from "../../../ffi/layout.ts";
import { errno } from "../../../ffi/libc.ts";
import { ibvContext, ibvDevice } from "../../../ffi/libibverbs.ts";
import { CM, librdmacm, rdmaCmId } from "../../../ffi/librdmacm.ts";
import { RdmaError } from "../../errors.ts";
import { formatGid, type Gid } from "../address.ts";
import type { CommunicationIdentifier } from "./communication_identifier.ts";
import { callError } from "./connection_error.ts";
import { openIdentifier } from "./event_channel.ts";
import { parseAddress, socketAddress } from "./socket_address.ts";

/** A port of a device of this host, and its GID there. */
export interface ResolvedPort {
  readonly device: string;
  /** From 1. */
  readonly port: number;
  readonly gid: Gid;
}

/** What says that an address is not that of an RDMA device here. */
const notHere: ReadonlySet<number> = new Set([
  constants.errno.EADDRNOTAVAIL,
  constants.errno.ENODEV,
]);

/**
 * The port that has an address of this host, or undefined when no RDMA device has it, as with
 * loopback addresses.
 *
 * @throws RdmaError when the address is malformed or the connection manager cannot be used
 */
export function resolveLocal(address: string): ResolvedPort | undefined {
  if (isEveryHosts(address)) return undefined;
  const source = socketAddress(address, 0);
  using identifier = openIdentifier(address);
  if (librdmacm().rdma_bind_addr(identifier.pointer, source.pointer) !== 0) {
    const error = errno();
    if (notHere.has(error)) return undefined;
    throw callError("rdma_bind_addr", address, error);
  }
  return portOf(identifier);
}

/** Whether every host has this address; the connection manager would take any device for it. */
function isEveryHosts(address: string): boolean {
  return ["loopback", "unspecified"].includes(parseAddress(address).range());
}

/** Where to, and from which of this host's addresses when the route shall not decide. */
export interface Destination {
  readonly address: string;
  readonly port: number;
  readonly localAddress?: string | undefined;
}

/**
 * Resolves a destination, so that the identifier has a device.
 *
 * @throws RdmaError
 */
export async function resolve(
  identifier: CommunicationIdentifier,
  { address, port, localAddress }: Destination,
  timeoutMilliseconds: number,
  signal: AbortSignal,
): Promise<void> {
  if (isEveryHosts(address)) {
    throw new RdmaError(
      "cm_address_unresolved",
      `no RDMA device has the address ${address}`,
      "use the address of a network interface, also for a server on this host",
    );
  }
  const destination = socketAddress(address, port);
  const source = localAddress === undefined ? undefined : socketAddress(localAddress, 0);
  const result = librdmacm().rdma_resolve_addr(
    identifier.pointer,
    source?.pointer ?? null,
    destination.pointer,
    timeoutMilliseconds,
  );
  identifier.check("rdma_resolve_addr", result);
  await identifier.expect(CM.RDMA_CM_EVENT_ADDR_RESOLVED, signal);
}

/** The port of an identifier that is bound to a device. */
export function portOf(identifier: CommunicationIdentifier): ResolvedPort | undefined {
  const id = rdmaCmId.at(identifier.pointer);
  const context = pointerAt(id.get("verbs"));
  if (context === null) return undefined;
  const device = pointerAt(ibvContext.at(context).get("device"))!;
  return {
    device: textOf(ibvDevice.at(device).get("name")),
    port: id.get("port_num"),
    gid: formatGid(id.get("route.addr.addr.ibaddr.sgid")),
  };
}
