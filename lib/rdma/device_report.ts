import { RdmaError } from "../errors.ts";
import type { Device, Port, Provider } from "./device.ts";

/** A device and what its ports are now, or why it cannot be opened. */
export type DeviceReport =
  & { readonly provider: Provider; readonly name: string }
  & (
    | {
      readonly ports: readonly Port[];
      readonly limits: Device["limits"];
      readonly firmware: string;
    }
    | { readonly error: RdmaError }
  );

/** Opens a device for a look. */
export function reportOn(provider: Provider, name: string, open: () => Device): DeviceReport {
  try {
    using device = open();
    const { limits, firmware } = device;
    return { provider, name, ports: device.ports(), limits, firmware };
  } catch (error) {
    if (error instanceof RdmaError) return { provider, name, error };
    throw error;
  }
}
