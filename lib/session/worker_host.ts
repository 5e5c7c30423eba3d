import { ProtocolError, toPlainError } from "../errors.ts";
import type { Device } from "../rdma/device.ts";
import { openDevice } from "../rdma/provider.ts";
import type { DataPathOptions } from "./data_path.ts";
import { LocalDataPath } from "./local_data_path.ts";
import type { ServiceDefinition } from "./service.ts";
import type { WorkerCall, WorkerReport } from "./worker_messages.ts";

/** The data paths of one worker, and the devices that they share. */
export class WorkerHost {
  readonly #devices = new Map<string, Device>();
  readonly #paths = new Map<number, LocalDataPath>();
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

  #open(session: number, options: DataPathOptions): void {
    const path = new LocalDataPath(
      this.#device(options.port.device),
      options,
      this.#definitions ??= this.define(),
    );
    this.#paths.set(session, path);
    path.failure.then((error) => this.report({ session, failure: toPlainError(error) }));
  }

  #path(session: number): LocalDataPath {
    const path = this.#paths.get(session);
    if (!path) throw new ProtocolError("session_ended", "the session has ended");
    return path;
  }

  #device(name: string): Device {
    const opened = this.#devices.get(name) ?? openDevice(name);
    this.#devices.set(name, opened);
    return opened;
  }

  #close(session: number) {
    const path = this.#paths.get(session);
    this.#paths.delete(session);
    return path?.close();
  }

  async #stop(): Promise<void> {
    await Promise.all([...this.#paths.keys()].map((session) => this.#close(session)));
    for (const device of this.#devices.values()) device[Symbol.dispose]();
    this.#devices.clear();
  }
}
