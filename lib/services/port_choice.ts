import type { PortSelection } from "../rdma/port_selection.ts";
import { selectPort } from "../rdma/provider.ts";
import type { PortChoice } from "../session/data_path.ts";
import { sessionRoom } from "../session/device_room.ts";
import { logger } from "../telemetry/log.ts";

const log = logger("server");

/** A selection as plain data, for another thread. */
export function portChoice({ provider, device, limits, port, gid }: PortSelection): PortChoice {
  return {
    provider,
    device,
    room: sessionRoom(limits),
    port: port.number,
    gid: gid.gid,
    gidIndex: gid.index,
    gidType: gid.type,
    lid: port.lid,
    mtu: port.activeMtu,
  };
}

/** Milliseconds for which a choice is kept: ports come and go, and looking opens every device. */
const KEPT = 2000;

/** Addresses that are remembered; a host has few, but for those of loopback. */
const ADDRESSES = 256;

/**
 * Chooses the port for each address of ours that clients reach, and remembers it for a moment.
 *
 * @param wanted as for {@linkcode selectPort}
 */
export function portChooser(wanted: string): (localAddress: string) => PortChoice {
  const choices = new Map<string, { choice: PortChoice; until: number }>();
  return (localAddress) => {
    const now = performance.now();
    const known = choices.get(localAddress);
    if (known && known.until > now) return known.choice;
    const selection = selectPort(wanted, localAddress);
    const choice = portChoice(selection);
    if (choice.device !== known?.choice.device) {
      const { device, reason } = selection;
      log.info("device chosen", { address: localAddress, device, reason });
    }
    if (choices.size >= ADDRESSES) choices.clear();
    choices.set(localAddress, { choice, until: now + KEPT });
    return choice;
  };
}
