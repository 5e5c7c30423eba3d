import { format } from "@std/fmt/bytes";
import type { Command } from "commander";
import type { RdmaError } from "../errors.ts";
import type { Port } from "../rdma/device.ts";
import { lockedMemoryLimit } from "../rdma/locked_memory.ts";
import {
  type DeviceReport,
  listDevices,
  type PortSelection,
  selectPort,
} from "../rdma/provider.ts";
import { outputOf } from "./output.ts";
import { examples } from "./program.ts";
import { deviceOption } from "./rdma_options.ts";

/** Below this a server cannot hold a handful of sessions: each pins some megabytes while it moves a file. */
const MUCH_LOCKED_MEMORY = 64 * 2 ** 20;

/** Adds `verbseal devices`. */
export function addDevicesCommand(program: Command): void {
  program.command("devices")
    .summary("show RDMA devices, and which would be used")
    .description("Show RDMA devices, their ports and GIDs, which would be used, and if none, why.")
    .addOption(deviceOption())
    .addHelpText(
      "after",
      examples(
        ["verbseal devices", "what there is"],
        ["verbseal devices --device mlx5_0:1 --json", "is this one usable? for a script"],
      ),
    )
    .action(devices);
}

/** Ends with the error that a session would end with, after showing all there is to know. */
function devices({ device: wanted }: { device: string }, command: Command): void {
  const output = outputOf(command);
  const reports = attempt(listDevices);
  const selection = attempt(() => selectPort(wanted));
  const lockedMemory = lockedMemoryLimit();
  output.result(
    {
      devices: "error" in reports ? [] : reports.value.map(record),
      selected: "error" in selection ? null : selected(selection.value),
      lockedMemoryBytes: lockedMemory === Infinity ? null : lockedMemory,
    },
    [
      ...("error" in reports ? [] : reports.value.flatMap(describe)),
      lockedMemoryLine(lockedMemory),
      ...("error" in selection ? [] : [selectionLine(wanted, selection.value)]),
    ].join("\n"),
  );
  if ("error" in selection) throw selection.error;
}

function attempt<T>(look: () => T): { value: T } | { error: RdmaError } {
  try {
    return { value: look() };
  } catch (error) {
    return { error: error as RdmaError };
  }
}

function record(report: DeviceReport): Record<string, unknown> {
  if ("error" in report) {
    const { code, message, remedy } = report.error;
    return { name: report.name, error: { code, message, remedy } };
  }
  return { provider: "verbs", ...report };
}

function selected({ device, port, gid, reason }: PortSelection) {
  return { device, port: port.number, gid: gid.gid, gidIndex: gid.index, reason };
}

function describe(report: DeviceReport): string[] {
  if ("error" in report) return [`${report.name}: ${report.error.message}`];
  const { limits, firmware } = report;
  const facts = [
    `${limits.maxQueuePairs} queue pairs`,
    `${limits.maxMemoryRegions} regions`,
    limits.atomics ? "atomics" : "no atomics",
    `${limits.maxMemoryWindows} memory windows`,
    ...(firmware === "" ? [] : [`firmware ${firmware}`]),
  ];
  return [`${report.name}: ${facts.join(", ")}`, ...report.ports.flatMap(describePort)];
}

function describePort({ number, state, linkLayer, activeMtu, lid, gids }: Port): string[] {
  const lidText = linkLayer === "InfiniBand" ? `, LID ${lid}` : "";
  return [
    `  port ${number}: ${state}, ${linkLayer}, MTU ${activeMtu}${lidText}`,
    ...gids.map(({ index, gid, type }) => `    GID ${index}: ${gid} (${type})`),
  ];
}

function lockedMemoryLine(bytes: number): string {
  if (bytes === Infinity) return "locked memory: unlimited";
  const remedy = bytes < MUCH_LOCKED_MEMORY
    ? "; raise it with ulimit -l unlimited, LimitMEMLOCK=infinity or --ulimit memlock=-1"
    : "";
  return `locked memory: ${format(bytes, { binary: true })}${remedy}`;
}

function selectionLine(wanted: string, { device, port, gid, reason }: PortSelection): string {
  return `--device ${wanted} would use port ${port.number} of ${device} with GID ${gid.gid}: ${reason}`;
}
