import ipaddr from "ipaddr.js";
import { RdmaError, UsageError } from "../errors.ts";
import type { Device, Provider } from "./device.ts";
import { type DeviceReport, reportOn, type ReportOptions } from "./device_report.ts";
import type { PortSelection } from "./port_selection.ts";
import { ROCE_PREFIX, RoceDevice } from "./roce/device.ts";
import { VerbsDevice } from "./verbs/device.ts";
import { withLibraries } from "./verbs/library_error.ts";
import { listVerbsDevices, selectActive, selectOwner } from "./verbs/selection.ts";

/** What `--device` comes to before there is a connection: the embedded provider then has no address yet. */
export type DeviceChoice =
  | PortSelection
  | Omit<PortSelection, "port" | "gid" | "limits">;

/** The embedded provider on no address in particular. */
const EMBEDDED = "roce";

/** The provider that `--device` names; undefined for `auto`, which looks at what there is. */
export function providerOf(wanted: string): Provider | undefined {
  if (wanted === "auto") return undefined;
  return wanted === EMBEDDED || wanted.startsWith(ROCE_PREFIX) ? "roce" : "verbs";
}

/**
 * Opens a device. Nothing of libibverbs is loaded for the embedded provider.
 *
 * @param name NAME of an RDMA device, or roce:ADDRESS
 * @param options.standardPort whether the embedded provider may take UDP port 4791
 * @throws RdmaError when it is not there, may not be opened, or a library is missing
 */
export function openDevice(name: string, options: { standardPort?: boolean } = {}): Device {
  const embedded = addressIn(name);
  if (embedded !== undefined) return new RoceDevice(embedded, options);
  return withLibraries(() => new VerbsDevice(name));
}

/** All RDMA devices, and the embedded provider on each address of this host that it can use. */
export function listDevices(options?: ReportOptions): DeviceReport[] {
  const addresses = Deno.networkInterfaces().map(({ address }) => address)
    .filter((address) => rangeOf(address) !== "linkLocal");
  return [
    ...verbsDevices(options),
    ...addresses.map((address) =>
      reportOn("roce", `${ROCE_PREFIX}${address}`, () => look(address), options)
    ),
  ];
}

/**
 * Chooses port and GID for a connection.
 *
 * @param wanted auto, NAME, NAME:PORT, roce:ADDRESS, or roce for the connection's own address
 * @param localAddress IP address of the TLS connection's own end
 * @throws RdmaError that says why there is none
 */
export function selectPort(wanted: string, localAddress?: string): PortSelection {
  const choice = chooseDevice(wanted, localAddress);
  if ("port" in choice) return choice;
  throw new UsageError("device", "the embedded provider needs an address", "use roce:ADDRESS");
}

/**
 * Chooses as {@linkcode selectPort} does, also where the address is not known yet: on a server that
 * listens on all addresses each connection's counts.
 *
 * `auto` takes the RDMA port that has the connection's address: another one may be in a network that
 * the peer is not in, while the embedded provider reaches whom TLS reaches. Where the address says
 * nothing, on loopback or before there is a connection, it takes the first active port.
 */
export function chooseDevice(wanted: string, localAddress?: string): DeviceChoice {
  const address = localAddress === undefined ? undefined : specific(localAddress);
  if (wanted === EMBEDDED) return embedded(address, "--device asks for it");
  const named = addressIn(wanted);
  if (named !== undefined) return embedded(named, "--device names it");
  if (wanted !== "auto") return selectActive(wanted, address);
  try {
    return address === undefined || rangeOf(address) === "loopback"
      ? selectActive()
      : selectOwner(address);
  } catch (error) {
    // An error here is a reason: the embedded provider needs neither libraries nor devices.
    if (!(error instanceof RdmaError)) throw error;
    const reason = `no usable RDMA port: ${error.message}`;
    return { ...embedded(address, reason), remedy: error.remedy };
  }
}

function embedded(address: string | undefined, reason: string): DeviceChoice {
  if (address === undefined) return { provider: "roce", device: EMBEDDED, reason };
  if (rangeOf(address) === "linkLocal") {
    // A GID does not say which interface it belongs to.
    throw new RdmaError(
      "link_local",
      `the embedded provider cannot use the link-local address ${address}`,
      "reach the server by another address, or name one of this host with --device roce:ADDRESS",
    );
  }
  using device = look(address);
  const port = device.ports()[0]!;
  const { name, limits } = device;
  return { provider: "roce", device: name, limits, port, gid: port.gids[0]!, reason };
}

/** Without the port that whoever goes on to use the device wants. */
function look(address: string): RoceDevice {
  return new RoceDevice(address, { standardPort: false });
}

function verbsDevices(options?: ReportOptions): DeviceReport[] {
  try {
    return listVerbsDevices(options);
  } catch (error) {
    if (error instanceof RdmaError) return [];
    throw error;
  }
}

/** ADDRESS of roce:ADDRESS; undefined for other names. */
function addressIn(name: string): string | undefined {
  if (!name.startsWith(ROCE_PREFIX)) return undefined;
  const text = name.slice(ROCE_PREFIX.length);
  const address = ipaddr.isValid(text) ? specific(text) : undefined;
  if (address !== undefined) return address;
  throw new UsageError(
    "device",
    `${name} does not name an IP address of this host`,
    "use roce:ADDRESS",
  );
}

/** An address, IPv4 as such where it came mapped into IPv6; undefined where it stands for all. */
function specific(text: string): string | undefined {
  const address = ipaddr.process(text);
  return address.range() === "unspecified" ? undefined : address.toString();
}

function rangeOf(address: string): string {
  return ipaddr.parse(address).range();
}
