import { RdmaError } from "../errors.ts";
import type { Device, Port, Provider } from "./device.ts";
import { type DrawnNumbers, drawNumbers } from "./drawn_numbers.ts";

/** A device and what its ports are now, or why it cannot be opened. */
export type DeviceReport =
  & { readonly provider: Provider; readonly name: string }
  & (
    | {
      readonly ports: readonly Port[];
      readonly limits: Device["limits"];
      readonly firmware: string;
      /** Where they were asked for. */
      readonly numbers?: DrawnNumbers;
    }
    | { readonly error: RdmaError }
  );

/** What a report is to tell. */
export interface ReportOptions {
  /** Also how predictable its rkeys and QPNs are, for which the device has to make some. */
  readonly numbers?: boolean;
}

/** Opens a device for a look. */
export function reportOn(
  provider: Provider,
  name: string,
  open: () => Device,
  { numbers = false }: ReportOptions = {},
): DeviceReport {
  try {
    using device = open();
    const { limits, firmware } = device;
    const report = { provider, name, ports: device.ports(), limits, firmware };
    return numbers ? { ...report, numbers: drawNumbers(device) } : report;
  } catch (error) {
    if (error instanceof RdmaError) return { provider, name, error };
    throw error;
  }
}
