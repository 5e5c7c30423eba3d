import { RdmaError } from "../errors.ts";
import { type Gid, gidOfAddress } from "./address.ts";
import type { Device, GidEntry, Port } from "./device.ts";
import { resolveLocal } from "./verbs/address_resolution.ts";
import { VerbsDevice, verbsDeviceNames } from "./verbs/device.ts";
import { withLibraries } from "./verbs/library_error.ts";

/** A port and a GID of it that a queue pair can use. */
export interface PortSelection {
  readonly device: string;
  readonly port: Port;
  readonly gid: GidEntry;
  /** Why this one, as a sentence. */
  readonly reason: string;
}

/** A device and what its ports are now, or why it cannot be opened. */
export type DeviceReport =
  & { readonly name: string }
  & (
    | {
      readonly ports: readonly Port[];
      readonly limits: Device["limits"];
      readonly firmware: string;
    }
    | { readonly error: RdmaError }
  );

interface DevicePort {
  readonly device: string;
  readonly port: Port;
}

const NO_DEVICE_REMEDY =
  "connect an RDMA NIC, make a Soft-RoCE device (modprobe rdma_rxe && rdma link add rxe0 type rxe " +
  "netdev eth0), or give a container --device /dev/infiniband";

/**
 * Opens a device.
 *
 * @throws RdmaError when it is not there, may not be opened, or a library is missing
 */
export function openDevice(name: string): Device {
  return withLibraries(() => new VerbsDevice(name));
}

/**
 * All devices, with what each would say to being used.
 *
 * @throws RdmaError when a library is missing
 */
export function listDevices(): DeviceReport[] {
  return withLibraries(() => verbsDeviceNames().map(report));
}

/**
 * Chooses port and GID.
 *
 * @param wanted `auto`, NAME or NAME:PORT
 * @param localAddress IP address of the TLS connection's own end: its GID is preferred
 * @throws RdmaError that says why there is none
 */
export function selectPort(wanted: string, localAddress?: string): PortSelection {
  const [name, portNumber] = wanted.split(":");
  const devices = listDevices().filter((device) => wanted === "auto" || device.name === name);
  const candidates = portsOf(devices)
    .filter(({ port }) => portNumber === undefined || port.number === Number(portNumber));
  const active = candidates.filter(({ port }) => port.state === "ACTIVE");
  const own = localAddress === undefined ? undefined : findOwner(active, localAddress);
  if (own) return { ...own, reason: `it has the TLS connection's address ${localAddress}` };
  for (const { device, port } of active) {
    const gid = bestGid(port);
    if (gid) return { device, port, gid, reason: "it is the first active port" };
  }
  throw noPort(wanted, candidates);
}

function report(name: string): DeviceReport {
  try {
    using device = new VerbsDevice(name);
    return { name, ports: device.ports(), limits: device.limits, firmware: device.firmware };
  } catch (error) {
    if (error instanceof RdmaError) return { name, error };
    throw error;
  }
}

/** Ports of the devices that open; when none does, the first one's error counts. */
function portsOf(devices: readonly DeviceReport[]): DevicePort[] {
  const opened = devices.filter((device) => "ports" in device);
  const failed = devices.find((device) => "error" in device);
  if (opened.length === 0 && failed) throw failed.error;
  return opened.flatMap(({ name, ports }) => ports.map((port) => ({ device: name, port })));
}

/** The port that has an address of this host: the connection manager knows, also where GIDs are not addresses. */
function findOwner(ports: readonly DevicePort[], address: string) {
  const owner = ownerOf(address);
  if (!owner) return undefined;
  for (const candidate of ports) {
    const { device = candidate.device, port = candidate.port.number } = owner;
    if (device !== candidate.device || port !== candidate.port.number) continue;
    const gid = candidate.port.gids.find(({ gid, type }) =>
      gid === owner.gid && type !== "RoCE v1"
    );
    if (gid) return { ...candidate, gid };
  }
  return undefined;
}

/** Without a connection manager the GIDs of RoCE still tell: they are the addresses. */
function ownerOf(address: string): { device?: string; port?: number; gid: Gid } | undefined {
  try {
    return resolveLocal(address);
  } catch (error) {
    if (!(error instanceof RdmaError)) throw error;
    return { gid: gidOfAddress(address) };
  }
}

/** RoCE v2 before InfiniBand; over IPv4 before routable IPv6 before link-local. RoCE v1 is never chosen. */
function bestGid(port: Port): GidEntry | undefined {
  const rank = ({ gid, type }: GidEntry) =>
    (type === "RoCE v2" ? 0 : 3) +
    (gid.startsWith("::ffff:") ? 0 : gid.startsWith("fe80:") ? 2 : 1);
  return port.gids.filter(({ type }) => type !== "RoCE v1").sort((a, b) => rank(a) - rank(b))[0];
}

function noPort(wanted: string, candidates: DevicePort[]): RdmaError {
  if (candidates.length === 0) {
    return wanted === "auto"
      ? new RdmaError("no_device", "there is no RDMA device", NO_DEVICE_REMEDY)
      : new RdmaError(
        "device_not_found",
        `there is no RDMA device or port ${wanted}`,
        "see what there is with verbseal devices",
      );
  }
  const states = candidates.map(({ device, port }) =>
    `port ${port.number} of ${device} is ${
      port.state === "ACTIVE" ? "without a RoCE v2 or InfiniBand GID" : port.state
    }`
  );
  return new RdmaError(
    "port_down",
    states.join("; "),
    "check the cable and bring the network interface up: ip link set DEVICE up",
  );
}
