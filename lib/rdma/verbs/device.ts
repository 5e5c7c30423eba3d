import { forget, readable, setNonblocking } from "../../../ffi/epoll.ts";
import { pointerAt, pointerOf, textOf } from "../../../ffi/layout.ts";
import {
  ibvAsyncEvent,
  ibvContext,
  ibvDevice,
  ibvDeviceAttr,
  ibvGidEntry,
  ibvPortAttr,
  ibvQp,
  libibverbs,
  V,
} from "../../../ffi/libibverbs.ts";
import { errno } from "../../../ffi/libc.ts";
import { libffi } from "../../../ffi/libffi.ts";
import { formatGid, type GidType, pathMtuFromEnum } from "../address.ts";
import type {
  AsyncEvent,
  Device,
  DeviceLimits,
  GidEntry,
  Port,
  PortErrors,
  PortState,
} from "../device.ts";
import { RdmaError } from "../../errors.ts";
import { VerbsCompletionQueue } from "./completion_queue.ts";
import { checkVerbs, VerbsError } from "./error.ts";
import { VerbsObject } from "./object.ts";
import { portErrorCounters } from "./port_counters.ts";
import { VerbsProtectionDomain } from "./protection_domain.ts";

/** Asynchronous events taken before other work of the thread gets its turn. */
const EVENTS = 16;

const portStates: Readonly<Record<number, PortState>> = {
  [V.IBV_PORT_DOWN]: "DOWN",
  [V.IBV_PORT_INIT]: "INIT",
  [V.IBV_PORT_ARMED]: "ARMED",
  [V.IBV_PORT_ACTIVE]: "ACTIVE",
};

const gidTypes: Readonly<Record<number, GidType>> = {
  [V.IBV_GID_TYPE_IB]: "InfiniBand",
  [V.IBV_GID_TYPE_ROCE_V1]: "RoCE v1",
  [V.IBV_GID_TYPE_ROCE_V2]: "RoCE v2",
};

/** Events that this program acts upon; every other is passed on by its number. */
const eventNames = [
  "IBV_EVENT_CQ_ERR",
  "IBV_EVENT_QP_FATAL",
  "IBV_EVENT_QP_REQ_ERR",
  "IBV_EVENT_QP_ACCESS_ERR",
  "IBV_EVENT_DEVICE_FATAL",
  "IBV_EVENT_PORT_ACTIVE",
  "IBV_EVENT_PORT_ERR",
  "IBV_EVENT_QP_LAST_WQE_REACHED",
] as const;

const queuePairEvents: ReadonlySet<string> = new Set([
  "IBV_EVENT_QP_FATAL",
  "IBV_EVENT_QP_REQ_ERR",
  "IBV_EVENT_QP_ACCESS_ERR",
  "IBV_EVENT_QP_LAST_WQE_REACHED",
]);

const portEvents: ReadonlySet<string> = new Set(["IBV_EVENT_PORT_ACTIVE", "IBV_EVENT_PORT_ERR"]);

const harmlessEvents: ReadonlySet<string> = new Set([
  "IBV_EVENT_PORT_ACTIVE",
  "IBV_EVENT_QP_LAST_WQE_REACHED",
]);

/** Vendor that rdma_rxe says it is of (RXE_VENDOR_ID of the kernel's rxe_param.h). */
const RXE_VENDOR_ID = 0xffffff;

/** Bound to a queue pair by its number, or by it and the protection domain: both ways hold for us. */
const WINDOWS = V.IBV_DEVICE_MEM_WINDOW_TYPE_2A | V.IBV_DEVICE_MEM_WINDOW_TYPE_2B;

function describe(device: Deno.PointerObject): { name: string; transport: number } {
  const fields = ibvDevice.at(device);
  return { name: textOf(fields.get("name")), transport: fields.get("transport_type") };
}

/**
 * Calls `use` with every device that libibverbs lists and whose queue pairs are InfiniBand's, also
 * over Ethernet: iWARP's are not. The list is freed afterwards.
 */
function withDevices<T>(use: (devices: { name: string; device: Deno.PointerObject }[]) => T): T {
  const count = new Int32Array(new ArrayBuffer(4));
  const list = libibverbs().ibv_get_device_list(pointerOf(count));
  if (list === null) throw new VerbsError("ibv_get_device_list", errno());
  try {
    const pointers = new Deno.UnsafePointerView(list);
    const devices = Array.from({ length: count[0]! }, (_, index) => {
      const device = pointers.getPointer(8 * index)!;
      const { name, transport } = describe(device);
      return { name, transport, device };
    });
    return use(devices.filter(({ transport }) => transport === V.IBV_TRANSPORT_IB));
  } finally {
    libibverbs().ibv_free_device_list(list);
  }
}

/**
 * Names of all RDMA devices, in the library's order; empty where the kernel has no RDMA support.
 *
 * @throws LibraryError when libibverbs is not installed
 */
export function verbsDeviceNames(): string[] {
  try {
    return withDevices((devices) => devices.map(({ name }) => name));
  } catch (error) {
    if (error instanceof VerbsError && error.errno === "ENOSYS") return [];
    throw error;
  }
}

/** A device of libibverbs: a NIC, or rdma_rxe. */
export class VerbsDevice extends VerbsObject implements Device {
  readonly provider = "verbs";
  readonly firmware: string;
  readonly limits: DeviceLimits;
  /** Whether it has memory windows of type 2. */
  readonly #windows: boolean;
  readonly guardsMemoryWindows: boolean;
  readonly #listeners = new Set<(event: AsyncEvent) => void>();
  readonly #asyncFd: number;

  /** @throws VerbsError when the device is not there or may not be opened */
  constructor(readonly name: string) {
    libffi(); // a queue that is made before it is found missing would be left behind
    super(
      "ibv_open_device",
      withDevices((devices) => {
        const found = devices.find((candidate) => candidate.name === name);
        if (!found) {
          throw new RdmaError(
            "device_not_found",
            `there is no RDMA device ${name}`,
            "see what there is with verbseal devices",
          );
        }
        return libibverbs().ibv_open_device(found.device);
      }),
      "ibv_close_device",
      libibverbs().ibv_close_device,
    );
    this.#asyncFd = ibvContext.at(this.pointer).get("async_fd");
    setNonblocking(this.#asyncFd);
    const attr = this.#attributes();
    this.firmware = textOf(attr.get("fw_ver"));
    this.guardsMemoryWindows = attr.get("vendor_id") !== RXE_VENDOR_ID;
    this.#windows = (attr.get("device_cap_flags") & WINDOWS) !== 0 && attr.get("max_mw") > 0;
    this.limits = {
      maxQueuePairs: attr.get("max_qp"),
      maxWorkRequests: attr.get("max_qp_wr"),
      maxScatterGather: attr.get("max_sge"),
      maxCompletionQueueEntries: attr.get("max_cqe"),
      maxMemoryRegions: attr.get("max_mr"),
      maxMemoryRegionBytes: attr.get("max_mr_size"),
      maxMemoryWindows: attr.get("max_mw"),
      maxProtectionDomains: attr.get("max_pd"),
      maxCompletionQueues: attr.get("max_cq"),
      maxDestRdAtomic: attr.get("max_qp_rd_atom"),
      maxRdAtomic: attr.get("max_qp_init_rd_atom"),
      atomics: attr.get("atomic_cap") !== 0,
    };
  }

  ports(): Port[] {
    const count = this.#attributes().get("phys_port_cnt");
    return Array.from({ length: count }, (_, index) => this.#port(index + 1));
  }

  allocateProtectionDomain(): VerbsProtectionDomain {
    return new VerbsProtectionDomain(this.pointer, this.#windows);
  }

  createCompletionQueue(depth: number): VerbsCompletionQueue {
    return new VerbsCompletionQueue(this.pointer, depth);
  }

  errorCounters(): PortErrors[] {
    const count = this.#attributes().get("phys_port_cnt");
    return Array.from({ length: count }, (_, index) => ({
      name: `${this.name}:${index + 1}`,
      older: true,
      counters: portErrorCounters(this.name, index + 1),
    }));
  }

  onAsyncEvent(listener: (event: AsyncEvent) => void, signal: AbortSignal): void {
    if (signal.aborted) return;
    this.#listeners.add(listener);
    if (this.#listeners.size === 1) this.#deliverEvents();
    signal.addEventListener("abort", () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size === 0) forget(this.#asyncFd);
    }, { once: true });
  }

  override [Symbol.dispose](): void {
    this.#listeners.clear();
    if (!this.disposed) forget(this.#asyncFd);
    super[Symbol.dispose]();
  }

  #attributes() {
    const attr = ibvDeviceAttr.allocate();
    checkVerbs("ibv_query_device", libibverbs().ibv_query_device(this.pointer, attr.pointer));
    return attr;
  }

  #port(number: number): Port {
    const attr = ibvPortAttr.allocate();
    checkVerbs("ibv_query_port", libibverbs().ibv_query_port(this.pointer, number, attr.pointer));
    const linkLayer = attr.get("link_layer");
    return {
      number,
      state: portStates[attr.get("state")] ?? "UNKNOWN",
      linkLayer: linkLayer === V.IBV_LINK_LAYER_ETHERNET
        ? "Ethernet"
        : linkLayer === V.IBV_LINK_LAYER_INFINIBAND
        ? "InfiniBand"
        : "unknown",
      activeMtu: pathMtuFromEnum(attr.get("active_mtu")),
      maxMtu: pathMtuFromEnum(attr.get("max_mtu")),
      lid: attr.get("lid"),
      maxMessageBytes: attr.get("max_msg_sz"),
      gids: this.#gids(number, attr.get("gid_tbl_len")),
    };
  }

  #gids(port: number, tableLength: number): GidEntry[] {
    const entry = ibvGidEntry.allocate();
    const gids: GidEntry[] = [];
    for (let index = 0; index < tableLength; index++) {
      // Empty entries answer ENODATA, and entries may come and go: those that answer count.
      const result = libibverbs()._ibv_query_gid_ex(
        this.pointer,
        port,
        index,
        entry.pointer,
        0,
        BigInt(ibvGidEntry.size),
      );
      const type = gidTypes[entry.get("gid_type")];
      if (result === 0 && type) gids.push({ index, gid: formatGid(entry.get("gid")), type });
    }
    return gids;
  }

  async #deliverEvents(): Promise<void> {
    while (this.#listeners.size > 0 && await readable(this.#asyncFd)) {
      for (let taken = 0; taken < EVENTS && this.#deliverEvent(); taken++);
    }
  }

  /** Returns false when there is none. */
  #deliverEvent(): boolean {
    const event = this.#takeEvent();
    if (event) { for (const listener of [...this.#listeners]) listener(event); }
    return event !== undefined;
  }

  #takeEvent(): AsyncEvent | undefined {
    // The device may have been disposed between the event and the moment that its waiter runs.
    if (this.disposed) return undefined;
    const raw = ibvAsyncEvent.allocate();
    if (libibverbs().ibv_get_async_event(this.pointer, raw.pointer) !== 0) return undefined;
    try {
      const type = raw.get("event_type");
      const name = eventNames.find((candidate) => V[candidate] === type) ?? `event ${type}`;
      const element = raw.get("element");
      return {
        name,
        fatal: !harmlessEvents.has(name) && !name.startsWith("event "),
        ...(queuePairEvents.has(name) ? { qpn: ibvQp.at(pointerAt(element)!).get("qp_num") } : {}),
        ...(name === "IBV_EVENT_CQ_ERR" ? { completionQueue: Number(element) } : {}),
        ...(portEvents.has(name) ? { port: Number(BigInt.asIntN(32, element)) } : {}),
      };
    } finally {
      // ibv_destroy_qp waits for events that are not acknowledged.
      libibverbs().ibv_ack_async_event(raw.pointer);
    }
  }
}
