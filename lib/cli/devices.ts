import { format } from "@std/fmt/bytes";
import type { Command } from "commander";
import { RdmaError } from "../errors.ts";
import type { Port } from "../rdma/device.ts";
import type { DeviceReport } from "../rdma/device_report.ts";
import type { DrawnNumbers } from "../rdma/drawn_numbers.ts";
import { lockedMemoryLimit } from "../rdma/locked_memory.ts";
import type { Predictability } from "../rdma/predictability.ts";
import { chooseDevice, type DeviceChoice, listDevices } from "../rdma/provider.ts";
import { listSharedCounters, type PortCounters } from "../rdma/roce/shared_counters.ts";
import { countedText } from "./counted_text.ts";
import { choiceFacts } from "./device_choice.ts";
import { kernelTlsReport } from "./kernel_tls.ts";
import { outputOf } from "./output.ts";
import { examples } from "./program.ts";
import { deviceOption } from "./rdma_options.ts";

/** Below this a server cannot hold a handful of sessions: each pins some megabytes while it moves a file. */
const MUCH_LOCKED_MEMORY = 64 * 2 ** 20;

/** Adds `verbseal devices`. */
export function addDevicesCommand(program: Command): void {
  program.command("devices")
    .summary("show RDMA devices and the embedded provider, and which would be used")
    .description(
      "Show RDMA devices, the addresses that the embedded provider can use, how predictable the " +
        "rkeys and QPNs of each are, the embedded ports of your running programs and what they " +
        "have counted, TLS in the kernel and in network interfaces, and which device would be used " +
        "and why.",
    )
    .addOption(deviceOption())
    .addHelpText(
      "after",
      examples(
        ["verbseal devices", "what there is, and what embedded ports have counted"],
        ["verbseal devices --device mlx5_0:1 --json", "is this one usable? for a script"],
      ),
    )
    .action(devices);
}

/** Ends with the error that a session would end with, after showing all there is to know. */
function devices({ device: wanted }: { device: string }, command: Command): void {
  const reports = listDevices({ numbers: true });
  const running = listSharedCounters();
  const choice = attempt(() => chooseDevice(wanted));
  const kernelTls = kernelTlsReport();
  const lockedMemory = lockedMemoryLimit();
  outputOf(command).result(
    {
      devices: reports.map(record),
      embeddedPorts: running.map(({ port, ...rest }) => ({ ...rest, udpPort: port })),
      selected: choice instanceof RdmaError ? null : choiceFacts(choice),
      kernelTls: kernelTls.record,
      lockedMemoryBytes: lockedMemory === Infinity ? null : lockedMemory,
    },
    [
      ...reports.flatMap(describe),
      ...running.map(describeRunning),
      ...kernelTls.lines,
      lockedMemoryLine(lockedMemory),
      ...(choice instanceof RdmaError ? [] : choiceLines(wanted, choice)),
    ].join("\n"),
  );
  if (choice instanceof RdmaError) throw choice;
}

function attempt<T>(look: () => T): T | RdmaError {
  try {
    return look();
  } catch (error) {
    if (error instanceof RdmaError) return error;
    throw error;
  }
}

function record(report: DeviceReport): Record<string, unknown> {
  if ("error" in report) return { ...report, error: errorRecord(report.error) };
  const { numbers, ...rest } = report;
  if (!numbers) return rest;
  const facts = Object.entries(numbers).map(([kind, found]) =>
    [kind, found instanceof RdmaError ? { error: errorRecord(found) } : found] as const
  );
  return { ...rest, numbers: Object.fromEntries(facts) };
}

function errorRecord({ code, message, remedy }: RdmaError): Record<string, unknown> {
  return { code, message, remedy };
}

function describe(report: DeviceReport): string[] {
  const { name, provider } = report;
  if ("error" in report) return [`${name}: ${report.error.message}`];
  const { limits, firmware, numbers } = report;
  const numberLines = numbers ? describeNumbers(numbers) : [];
  if (provider === "roce") {
    return [`${name}: embedded, MTU ${report.ports[0]!.activeMtu}`, ...numberLines];
  }
  const facts = [
    `${limits.maxQueuePairs} queue pairs`,
    `${limits.maxMemoryRegions} regions`,
    limits.atomics ? "atomics" : "no atomics",
    `${limits.maxMemoryWindows} memory windows`,
    ...(firmware === "" ? [] : [`firmware ${firmware}`]),
  ];
  return [`${name}: ${facts.join(", ")}`, ...numberLines, ...report.ports.flatMap(describePort)];
}

function describeNumbers({ rkeys, qpns }: DrawnNumbers): string[] {
  return [`  rkeys: ${predictabilityText(rkeys)}`, `  QPNs: ${predictabilityText(qpns)}`];
}

function predictabilityText(found: Predictability | RdmaError): string {
  if (found instanceof RdmaError) return `not looked at, as ${found.message}`;
  const { width, bitsToGuess, steps: { from, to } } = found;
  if (bitsToGuess === width) return `no rule found, ${width} bits to guess`;
  const known = to - from < 2 ** (width - 1) ? ` (each ${stepsText(from, to)} the last)` : "";
  return `predictable${bitsToGuess === 0 ? "" : ` but for ${bitsToGuess} bits`}${known}`;
}

/** As "0x100 above", "0x1 to 0x1ff above" or "0xff below to 0x1ff above". */
function stepsText(from: number, to: number): string {
  if (from < 0 && to > 0) return `${hexadecimal(-from)} below to ${hexadecimal(to)} above`;
  const [least, most] = from < 0 ? [-to, -from] : [from, to];
  const side = from < 0 ? "below" : "above";
  return `${least === most ? "" : `${hexadecimal(least)} to `}${hexadecimal(most)} ${side}`;
}

function hexadecimal(number: number): string {
  return `0x${number.toString(16)}`;
}

function describePort({ number, state, linkLayer, activeMtu, lid, gids }: Port): string[] {
  const lidText = linkLayer === "InfiniBand" ? `, LID ${lid}` : "";
  return [
    `  port ${number}: ${state}, ${linkLayer}, MTU ${activeMtu}${lidText}`,
    ...gids.map(({ index, gid, type }) => `    GID ${index}: ${gid} (${type})`),
  ];
}

function describeRunning({ address, port, pid, counters }: PortCounters): string {
  return `roce:${address}, UDP port ${port}, process ${pid}: ${countedText(counters)}`;
}

function lockedMemoryLine(bytes: number): string {
  if (bytes === Infinity) return "locked memory: unlimited";
  const remedy = bytes < MUCH_LOCKED_MEMORY
    ? "; raise it with ulimit -l unlimited, LimitMEMLOCK=infinity or --ulimit memlock=-1"
    : "";
  return `locked memory: ${format(bytes, { binary: true })}${remedy}`;
}

function choiceLines(wanted: string, choice: DeviceChoice): string[] {
  const { provider, device, reason, remedy } = choice;
  const what = !("port" in choice)
    ? "the embedded provider on each connection's own address"
    : provider === "roce"
    ? device
    : `port ${choice.port.number} of ${device} with GID ${choice.gid.gid}`;
  return [
    `--device ${wanted} would use ${what}: ${reason}`,
    ...(remedy ? [`for an RDMA port: ${remedy}`] : []),
  ];
}
