import { RdmaError } from "../../errors.ts";
import { type Gid, gidOfAddress } from "../address.ts";
import type { DeviceLimits, GidEntry, Port } from "../device.ts";
import { type DeviceReport, reportOn, type ReportOptions } from "../device_report.ts";
import type { PortSelection } from "../port_selection.ts";
import { resolveLocal } from "./address_resolution.ts";
import { VerbsDevice, verbsDeviceNames } from "./device.ts";
import { withLibraries } from "./library_error.ts";

interface DevicePort {
  readonly device: string;
  readonly limits: DeviceLimits;
  readonly port: Port;
}

/**
 * All devices, with what each would say to being used.
 *
 * @throws RdmaError when a library is missing
 */
export function listVerbsDevices(options?: ReportOptions): DeviceReport[] {
  return withLibraries(() =>
    verbsDeviceNames().map((name) => reportOn("verbs", name, () => new VerbsDevice(name), options))
  );
}

/**
 * The active port that has an address of this host.
 *
 * @throws RdmaError that says why there is none
 */
export function selectOwner(localAddress: string): PortSelection {
  const active = activePorts(candidatesFor());
  const own = findOwner(active, localAddress);
  if (own) return own;
  const others = active.map(({ device, port }) => `port ${port.number} of ${device}`);
  throw new RdmaError(
    "no_owner",
    `the TLS connection's address ${localAddress} is not that of ${others.join(", ")}`,
    "name a port with --device, or use its address",
  );
}

/**
 * The active port that has an address of this host, else the first active one.
 *
 * @param wanted NAME or NAME:PORT; without it any
 * @throws RdmaError that says why there is none
 */
export function selectActive(wanted?: string, localAddress?: string): PortSelection {
  const active = activePorts(candidatesFor(wanted));
  const own = localAddress === undefined ? undefined : findOwner(active, localAddress);
  if (own) return own;
  return { provider: "verbs", ...active[0], reason: "it is the first active port" };
}

/**
 * Ports of the devices that open.
 *
 * @throws RdmaError when there are none
 */
function candidatesFor(wanted?: string): DevicePort[] {
  const [name, number] = wanted?.split(":") ?? [];
  const devices = listVerbsDevices().filter((device) =>
    wanted === undefined || device.name === name
  );
  const opened = devices.filter((device) => "ports" in device);
  const failed = devices.find((device) => "error" in device);
  if (opened.length === 0 && failed) throw cannotOpen(failed.name, failed.error);
  const ports = opened.flatMap(({ name, limits, ports }) =>
    ports.map((port) => ({ device: name, limits, port }))
  )
    .filter(({ port }) => number === undefined || port.number === Number(number));
  if (ports.length === 0) throw nothingThere(wanted);
  return ports;
}

/**
 * Ports that are active and have a GID that can be used, with the best of them.
 *
 * @throws RdmaError when there are none
 */
function activePorts(candidates: readonly DevicePort[]) {
  const active = candidates.flatMap((candidate) => {
    const { port } = candidate;
    const gid = port.state === "ACTIVE" ? bestGid(port) : undefined;
    return gid ? [{ ...candidate, gid }] : [];
  });
  const [first, ...others] = active;
  if (first) return [first, ...others] as const;
  throw portsDown(candidates);
}

/** The connection manager knows which port has an address, also where GIDs are not addresses. */
function findOwner(ports: readonly DevicePort[], address: string): PortSelection | undefined {
  const owner = ownerOf(address);
  if (!owner) return undefined;
  for (const { device, limits, port } of ports) {
    if ((owner.device ?? device) !== device || (owner.port ?? port.number) !== port.number) {
      continue;
    }
    const gid = port.gids.find(({ gid, type }) => gid === owner.gid && type !== "RoCE v1");
    const reason = `it has the TLS connection's address ${address}`;
    if (gid) return { provider: "verbs", device, limits, port, gid, reason };
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

function cannotOpen(name: string, { code, message, remedy }: RdmaError): RdmaError {
  return new RdmaError(code, `${name}: ${message}`, remedy);
}

function nothingThere(wanted: string | undefined): RdmaError {
  return wanted === undefined
    ? new RdmaError(
      "no_device",
      "there is no RDMA device",
      "connect an RDMA NIC, make a Soft-RoCE device (modprobe rdma_rxe && rdma link add rxe0 type " +
        "rxe netdev eth0), or give a container --device /dev/infiniband",
    )
    : new RdmaError(
      "device_not_found",
      `there is no RDMA device or port ${wanted}`,
      "see what there is with verbseal devices",
    );
}

function portsDown(candidates: readonly DevicePort[]): RdmaError {
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
