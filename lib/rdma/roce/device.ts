import ipaddr from "ipaddr.js";
import { RdmaError } from "../../errors.ts";
import { gidOfAddress, PATH_MTUS, type PathMtu } from "../address.ts";
import type { AsyncEvent, Device, DeviceLimits, Port, PortErrors } from "../device.ts";
import { RoceCompletionQueue } from "./completion_queue.ts";
import { COUNTER_NAMES, Counters } from "./counters.ts";
import { ROCE_UDP_PORT } from "./endpoint.ts";
import { MAX_PACKET_BYTES } from "./headers.ts";
import { interfaceMtu } from "./interface_mtu.ts";
import { RocePort } from "./port.ts";
import { RoceProtectionDomain } from "./protection_domain.ts";
import { Pump } from "./pump.ts";
import { MAX_RD_ATOMIC } from "./queue_pair.ts";
import { MAX_MESSAGE_BYTES } from "./opcode.ts";
import { shareCounters } from "./shared_counters.ts";
import { UdpWire } from "./udp_wire.ts";

/** Devices of the embedded provider are named by their address. */
export const ROCE_PREFIX = "roce:";

const limits: DeviceLimits = {
  maxQueuePairs: 2 ** 20,
  maxWorkRequests: 2 ** 14,
  maxScatterGather: 32,
  maxCompletionQueueEntries: 2 ** 20,
  maxMemoryRegions: 2 ** 20,
  maxMemoryRegionBytes: 2n ** 40n,
  maxMemoryWindows: 0,
  maxProtectionDomains: 2 ** 20,
  maxCompletionQueues: 2 ** 20,
  maxDestRdAtomic: MAX_RD_ATOMIC,
  maxRdAtomic: MAX_RD_ATOMIC,
  atomics: true,
};

/** Bytes of IP and UDP headers, and of those of RoCE around a payload. */
const OVERHEAD = { ipv4: 28, ipv6: 48, roce: MAX_PACKET_BYTES - 4096 } as const;

/**
 * The largest path MTU whose packets fit an interface.
 *
 * @throws RdmaError when not even 256 does
 */
export function pathMtuOf(interfaceMtu: number, isIpv4: boolean): PathMtu {
  const room = interfaceMtu - OVERHEAD.roce - (isIpv4 ? OVERHEAD.ipv4 : OVERHEAD.ipv6);
  const mtu = PATH_MTUS.findLast((candidate) => candidate <= room);
  if (mtu !== undefined) return mtu;
  throw new RdmaError(
    "mtu_too_small",
    `the interface's MTU of ${interfaceMtu} is too small for RDMA`,
    "raise it: ip link set DEVICE mtu 1500",
  );
}

/** The embedded provider on one local address: a UDP socket that speaks RoCEv2. */
export class RoceDevice implements Device {
  readonly provider = "roce";
  readonly name: string;
  readonly firmware = "";
  readonly limits = limits;
  /** UDP port that peers send to. */
  readonly udpPort: number;
  readonly counters: Counters;
  readonly #address: string;
  readonly #octets: Uint8Array<ArrayBuffer>;
  readonly #resources: DisposableStack;
  readonly #port: RocePort;
  readonly #pump: Pump;
  readonly #listeners = new Set<(event: AsyncEvent) => void>();

  /**
   * @param address of this host, IPv4 or IPv6
   * @param standardPort false to leave RoCEv2's UDP port 4791 to others; where that is taken, another is used
   * @throws RdmaError when the address is not this host's
   */
  constructor(address: string, { standardPort = true } = {}) {
    this.#address = address;
    this.name = `${ROCE_PREFIX}${address}`;
    this.#octets = new Uint8Array(ipaddr.parse(address).toByteArray());
    this.#pathMtu(); // of an address that is not there, or too small
    using building = new DisposableStack();
    const wire = building.use(openWire(this.#octets, standardPort));
    this.udpPort = wire.local.port;
    const { values } = building.use(shareCounters(address, this.udpPort, COUNTER_NAMES));
    this.counters = new Counters(values);
    this.#port = building.use(
      new RocePort(
        wire,
        () => performance.now(),
        (event) => this.#report(event),
        this.counters,
      ),
    );
    this.#pump = building.use(new Pump(this.#port, wire));
    this.#port.onWork = () => this.#pump.wake();
    this.#resources = building.move();
  }

  ports(): Port[] {
    return [{
      number: 1,
      state: "ACTIVE",
      linkLayer: "Ethernet",
      activeMtu: this.#pathMtu(),
      maxMtu: 4096,
      lid: 0,
      maxMessageBytes: MAX_MESSAGE_BYTES,
      gids: [{ index: 0, gid: gidOfAddress(this.#address), type: "RoCE v2" }],
    }];
  }

  allocateProtectionDomain(): RoceProtectionDomain {
    return new RoceProtectionDomain(this.#port);
  }

  createCompletionQueue(depth: number): RoceCompletionQueue {
    return new RoceCompletionQueue(this.#port, depth);
  }

  errorCounters(): PortErrors[] {
    const { rx_packets: _received, tx_packets: _sent, ...counters } = this.counters.toRecord();
    return [{ name: `${this.name} UDP port ${this.udpPort}`, older: false, counters }];
  }

  onAsyncEvent(listener: (event: AsyncEvent) => void, signal: AbortSignal): void {
    if (signal.aborted) return;
    this.#listeners.add(listener);
    signal.addEventListener("abort", () => this.#listeners.delete(listener), { once: true });
  }

  [Symbol.dispose](): void {
    this.#listeners.clear();
    this.#resources.dispose();
  }

  #pathMtu(): PathMtu {
    return pathMtuOf(interfaceMtu(this.#octets), this.#octets.length === 4);
  }

  /** Events come after the call that caused them, as those of hardware do. */
  #report(event: AsyncEvent): void {
    queueMicrotask(() => {
      for (const listener of [...this.#listeners]) listener(event);
    });
  }
}

function openWire(address: Uint8Array<ArrayBuffer>, standardPort: boolean): UdpWire {
  if (!standardPort) return new UdpWire(address, 0);
  try {
    return new UdpWire(address, ROCE_UDP_PORT);
  } catch (error) {
    if (!(error instanceof RdmaError) || error.code !== "udp_port_taken") throw error;
    return new UdpWire(address, 0);
  }
}
