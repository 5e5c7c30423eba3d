import type { AsyncEvent, Device } from "../rdma/device.ts";
import { logger } from "../telemetry/log.ts";
import { CountedReports } from "./counted_reports.ts";

const log = logger("workers");

/** Tells the log what devices report outside of any work request. */
export class AsyncEventLog {
  /** @param reports counts them; whoever makes a device report without end fills no log (RFC 5042, section 2.2.7) */
  constructor(private readonly reports = new CountedReports()) {}

  /** Takes a device's events until the signal aborts. */
  watch(device: Device, signal: AbortSignal): void {
    device.onAsyncEvent((event) => this.#take(device.name, event), signal);
  }

  #take(device: string, { name, fatal, ...about }: AsyncEvent): void {
    const omitted = this.reports.count(name);
    const { [name]: count } = this.reports.counts;
    const fields = { device, event: name, ...about, count, ...omitted };
    if (omitted) log[fatal ? "warning" : "info"]("asynchronous event", fields);
  }
}
