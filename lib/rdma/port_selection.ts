import type { DeviceLimits, GidEntry, Port, Provider } from "./device.ts";

/** A port and a GID of it that a queue pair can use. */
export interface PortSelection {
  readonly provider: Provider;
  /** As devices are opened by. */
  readonly device: string;
  /** Of the device. */
  readonly limits: DeviceLimits;
  readonly port: Port;
  readonly gid: GidEntry;
  /** Why this one, as a sentence. */
  readonly reason: string;
  /** How to get an RDMA port, where `auto` found none. */
  readonly remedy?: string;
}
