import { type PortSelection, selectPort } from "../rdma/provider.ts";
import type { PortChoice } from "../session/data_path.ts";

/** A selection as plain data, for another thread. */
export function portChoice({ device, port, gid }: PortSelection): PortChoice {
  return {
    provider: "verbs",
    device,
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

/**
 * Chooses the port for each address of ours that clients reach, and remembers it for a moment.
 *
 * @param wanted `auto`, NAME or NAME:PORT
 */
export function portChooser(wanted: string): (localAddress: string) => PortChoice {
  const choices = new Map<string, { choice: PortChoice; until: number }>();
  return (localAddress) => {
    const now = performance.now();
    const known = choices.get(localAddress);
    if (known && known.until > now) return known.choice;
    const choice = portChoice(selectPort(wanted, localAddress));
    choices.set(localAddress, { choice, until: now + KEPT });
    return choice;
  };
}
