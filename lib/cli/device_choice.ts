import type { DeviceChoice } from "../rdma/provider.ts";

/** What `--device` came to, for logs and `--json`. */
export function choiceFacts(choice: DeviceChoice) {
  const { provider, device, reason } = choice;
  if (!("port" in choice)) return { provider, device, reason };
  const { port, gid } = choice;
  return { provider, device, port: port.number, gid: gid.gid, gidIndex: gid.index, reason };
}
