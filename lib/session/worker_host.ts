import { ProtocolError, toPlainError } from "../errors.ts";
import type { Device } from "../rdma/device.ts";
import { openDevice } from "../rdma/provider.ts";
import type { FinalState, QueuePairPathOptions } from "./data_path.ts";
import { LocalDataPath } from "./local_data_path.ts";
import type { ServiceDefinition } from "./service.ts";
import type { WorkerCall, WorkerReport } from "./worker_messages.ts";

/** Devices that no session uses and that stay open: the embedded provider has one for each address that clients reach. */
const MAX_IDLE_DEVICES = 16;

/** A device and how many sessions use it. */
interface SharedDevice {
  readonly name: string;
  readonly device: Device;
  sessions: number;
}

/** The data paths of one worker, and the devices that they share. */
export class WorkerHost {
  readonly #devices = new Map<string, SharedDevice>();
  readonly #paths = new Map<number, { path: LocalDataPath; shared: SharedDevice }>();
  #definitions: readonly ServiceDefinition[] | undefined;

  /**
   * @param define makes the services, with the first session: what it throws is that session's
   * error and does not end the worker
   * @param report sends to the control thread
   */
  constructor(
    private readonly define: () => readonly ServiceDefinition[],
    private readonly report: (message: WorkerReport) => void,
  ) {}

  /** Answers a call of the control thread, whatever happens. */
  async take(order: WorkerCall): Promise<void> {
    const { call } = order;
    try {
      this.report({ call, result: await this.#perform(order) });
    } catch (error) {
      this.report({ call, error: toPlainError(error) });
    }
  }

  #perform(order: WorkerCall): unknown {
    const { session } = order;
    switch (order.method) {
      case "open":
        return this.#open(session, ...order.args);
      case "allocate":
        return this.#path(session).allocate();
      case "connect":
        return this.#path(session).connect(...order.args);
      case "prove":
        return this.#path(session).prove(...order.args);
      case "request":
        return this.#path(session).request(...order.args);
      case "close":
        return this.#close(session);
      case "stop":
        return this.#stop();
    }
  }

  #open(session: number, options: QueuePairPathOptions, standardPort: boolean): void {
    const definitions = this.#definitions ??= this.define();
    const shared = this.#device(options.port.device, standardPort);
    const path = new LocalDataPath(shared.device, options, definitions);
    shared.sessions += 1;
    this.#paths.set(session, { path, shared });
    path.failure.then((error) => this.report({ session, failure: toPlainError(error) }));
  }

  #path(session: number): LocalDataPath {
    const found = this.#paths.get(session);
    if (!found) throw new ProtocolError("session_ended", "the session has ended");
    return found.path;
  }

  #device(name: string, standardPort: boolean): SharedDevice {
    const known = this.#devices.get(name);
    if (known) return known;
    const shared = { name, device: openDevice(name, { standardPort }), sessions: 0 };
    this.#devices.set(name, shared);
    return shared;
  }

  async #close(session: number): Promise<FinalState | undefined> {
    const found = this.#paths.get(session);
    if (!found) return undefined;
    this.#paths.delete(session);
    const final = await found.path.close();
    found.shared.sessions -= 1;
    this.#closeIdleDevices();
    return final;
  }

  #closeIdleDevices(): void {
    const idle = [...this.#devices.values()].filter(({ sessions }) => sessions === 0);
    for (const { name, device } of idle.slice(MAX_IDLE_DEVICES)) {
      this.#devices.delete(name);
      device[Symbol.dispose]();
    }
  }

  async #stop(): Promise<void> {
    await Promise.all([...this.#paths.keys()].map((session) => this.#close(session)));
    for (const { device } of this.#devices.values()) device[Symbol.dispose]();
    this.#devices.clear();
  }
}
