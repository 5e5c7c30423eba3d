/** What `verbseal devices` says of TLS in the kernel and in network interfaces. */
import { TlsError } from "../errors.ts";
import { printable } from "../telemetry/printable.ts";
import type { FeatureState } from "../tls/interface_socket.ts";
import { type InterfaceOffload, listKernelOffload } from "../tls/kernel_offload.ts";
import { kernelTlsStatistics } from "../tls/kernel_statistics.ts";
import { countedText } from "./counted_text.ts";

/** For `--json` all of it, for people what they can use. */
export interface KernelTlsReport {
  readonly record: Record<string, unknown>;
  readonly lines: string[];
}

/** Looks at the kernel; what it does not tell is an error in the report. */
export function kernelTlsReport(): KernelTlsReport {
  const interfaces = attempt(listKernelOffload);
  const statistics = attempt(kernelTlsStatistics);
  return {
    record: { interfaces: recordOf(interfaces), statistics: recordOf(statistics) },
    lines: [
      ...(interfaces instanceof TlsError ? [problem(interfaces)] : offloadLines(interfaces)),
      statistics instanceof TlsError
        ? problem(statistics)
        : `kernel TLS: ${countedText(statistics)}`,
    ],
  };
}

function attempt<T>(look: () => T): T | TlsError {
  try {
    return look();
  } catch (error) {
    if (error instanceof TlsError) return error;
    throw error;
  }
}

function recordOf<T>(result: T | TlsError) {
  if (!(result instanceof TlsError)) return result;
  const { code, message, remedy } = result;
  return { error: { code, message, remedy } };
}

function problem({ message, remedy }: TlsError): string {
  return `kernel TLS: ${message}; ${remedy}`;
}

/**
 * Lines on interfaces that can offload TLS, and one that names those that cannot. Loopback and
 * interfaces that are down are left out of that: on them nobody misses it.
 */
export function offloadLines(interfaces: readonly InterfaceOffload[]): string[] {
  const able = interfaces.filter(isAble);
  const unable = interfaces.filter((each) => !isAble(each) && each.running && !each.loopback)
    .map(({ name }) => printable(name));
  return [
    ...able.flatMap(describe),
    ...(unable.length === 0 ? [] : [`no TLS offload: ${unable.join(", ")}`]),
  ];
}

function isAble({ tx, rx, counters }: InterfaceOffload): boolean {
  return [tx, rx].some((state) => state?.on || state?.changeable) ||
    Object.values(counters).some((value) => value !== 0);
}

function describe({ name, tx, rx, counters }: InterfaceOffload): string[] {
  const features = [["tls-hw-tx-offload", tx], ["tls-hw-rx-offload", rx]] as const;
  const states = features.map(([feature, state]) => `${feature} ${stateText(state)}`);
  const missing = features.filter(([, state]) => state?.changeable && !state.requested)
    .map(([feature]) => ` ${feature} on`);
  const shown = printable(name);
  const remedy = missing.length === 0 ? "" : `; as root: ethtool -K ${shown}${missing.join("")}`;
  return [`${shown}: ${states.join(", ")}${remedy}`, `  ${countedText(totals(counters))}`];
}

/** In the words of `ethtool -k`. */
function stateText(state: FeatureState | undefined): string {
  if (state === undefined) return "unknown to this kernel";
  const value = state.on ? "on" : "off";
  if (!state.changeable) return `${value} [fixed]`;
  if (state.on === state.requested) return value;
  return `${value} [requested ${state.requested ? "on" : "off"}]`;
}

/** Without those of single queues, such as tx0_tls_encrypted_packets: there can be hundreds. */
function totals(counters: Readonly<Record<string, number>>): Record<string, number> {
  return Object.fromEntries(Object.entries(counters).filter(([name]) => !/^[rt]x\d/.test(name)));
}
