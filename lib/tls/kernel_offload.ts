import { constants } from "node:os";
import { C, SystemError } from "../../ffi/libc.ts";
import { TlsError } from "../errors.ts";
import { type FeatureState, interfaceNames, InterfaceSocket } from "./interface_socket.ts";

/** What a network interface does of kernel TLS by itself. */
export interface InterfaceOffload {
  readonly name: string;
  readonly loopback: boolean;
  /** Up, and able to carry packets. */
  readonly running: boolean;
  /** tls-hw-tx-offload: it seals the records. Undefined where the kernel knows no such feature. */
  readonly tx: FeatureState | undefined;
  /** tls-hw-rx-offload: it opens the records. Undefined where the kernel knows no such feature. */
  readonly rx: FeatureState | undefined;
  /** Its driver's counters with "tls" in their names, as in `ethtool -S`. */
  readonly counters: Readonly<Record<string, number>>;
}

/**
 * TLS offload of all network interfaces of this network namespace.
 *
 * @throws TlsError `kernel_offload_unknown`
 */
export function listKernelOffload(): InterfaceOffload[] {
  try {
    using socket = new InterfaceSocket();
    return interfaceNames().flatMap((name) => offloadOf(socket, name) ?? []);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    throw new TlsError(
      "kernel_offload_unknown",
      `the network interfaces cannot be asked for TLS offload: ${error.message}`,
      "run it again, and outside of sandboxes that forbid this call",
      { cause: error },
    );
  }
}

/** Undefined for an interface that is gone by now. */
function offloadOf(socket: InterfaceSocket, name: string): InterfaceOffload | undefined {
  try {
    const flags = socket.flags(name);
    const features = socket.features(name);
    const counters = [...socket.statistics(name)].filter(([counter]) => counter.includes("tls"));
    return {
      name,
      loopback: (flags & C.IFF_LOOPBACK) !== 0,
      running: (flags & C.IFF_RUNNING) !== 0,
      tx: features.get("tls-hw-tx-offload"),
      rx: features.get("tls-hw-rx-offload"),
      counters: Object.fromEntries(counters),
    };
  } catch (error) {
    if (error instanceof SystemError && error.errno === constants.errno.ENODEV) return undefined;
    throw error;
  }
}
