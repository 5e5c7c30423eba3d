import { ProtocolError, toPlainError } from "../errors.ts";
import type { Device } from "../rdma/device.ts";
import { openDevice } from "../rdma/provider.ts";
import { AsyncEventLog } from "./async_event_log.ts";
import { ClientTurns } from "./client_turns.ts";
import type { DataPath, DataPathOptions, FinalState, QueuePairPathOptions } from "./data_path.ts";
import type { KernelTls } from "../tls/connection.ts";
import { type DetachedConnection, OpensslConnection } from "../tls/openssl_connection.ts";
import { LocalDataPath } from "./local_data_path.ts";
import { StreamDataPath } from "./stream_data_path.ts";
import type { ServiceDefinition } from "./service.ts";
import { TokenBucket } from "./token_bucket.ts";
import { type SessionUsage, sumOfUsage } from "./usage.ts";
import type { WorkerCall, WorkerReport } from "./worker_messages.ts";

/** Devices that no session uses and that stay open: the embedded provider has one for each address that clients reach. */
const MAX_IDLE_DEVICES = 16;

/** Times a second that the control thread is told that a session is slowed down. */
const SLOWED_REPORTS = 1;

/** A device and how many sessions use it. */
interface SharedDevice {
  readonly name: string;
  readonly device: Device;
  /** Aborts before it is closed. */
  readonly ending: AbortController;
  sessions: number;
}

/** The data paths of one worker, and the devices that they share. */
export class WorkerHost {
  readonly #devices = new Map<string, SharedDevice>();
  readonly #queuePairs = new Map<number, { path: LocalDataPath; shared: SharedDevice }>();
  readonly #streams = new Map<number, StreamDataPath>();
  /** Those, and what is being closed. */
  readonly #paths = new Set<LocalDataPath | StreamDataPath>();
  /** What services have done on paths that are closed. */
  #usage: SessionUsage = {};
  readonly #events = new AsyncEventLog();
  readonly #turns = new ClientTurns();
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
      case "openStream":
        return this.#openStream(session, ...order.args);
      case "allocate":
        return this.#queuePair(session).allocate();
      case "connect":
        return this.#queuePair(session).connect(...order.args);
      case "prove":
        return this.#queuePair(session).prove(...order.args);
      case "use":
        return this.#use(session, ...order.args);
      case "request":
        return this.#path(session).request(...order.args);
      case "close":
        return this.#close(session, ...order.args);
      case "errorCounters":
        return [...this.#devices.values()].flatMap(({ device }) => device.errorCounters());
      case "usage":
        return [...this.#paths].map(({ usage }) => usage).reduce(sumOfUsage, this.#usage);
      case "stop":
        return this.#stop();
    }
  }

  #open(session: number, options: QueuePairPathOptions, standardPort: boolean): void {
    const definitions = this.#services();
    const shared = this.#device(options.port.device, standardPort);
    const path = new LocalDataPath(shared.device, options, definitions, { turns: this.#turns });
    shared.sessions += 1;
    this.#queuePairs.set(session, { path, shared });
    this.#watch(session, path);
  }

  #openStream(session: number, options: DataPathOptions): void {
    const path = new StreamDataPath(options, this.#services(), { turns: this.#turns });
    this.#streams.set(session, path);
    this.#watch(session, path);
  }

  #services(): readonly ServiceDefinition[] {
    return this.#definitions ??= this.define();
  }

  #watch(session: number, path: LocalDataPath | StreamDataPath): void {
    this.#paths.add(path);
    path.failure.then((error) => this.report({ session, failure: toPlainError(error) }));
    const reports = new TokenBucket(SLOWED_REPORTS);
    path.onSlowed = (slowed) => {
      if (reports.wait > 0) return;
      reports.spend();
      this.report({ session, slowed });
    };
    path.onResumed = (resumed) => this.report({ session, resumed });
  }

  async #use(session: number, detached: DetachedConnection): Promise<KernelTls> {
    const connection = OpensslConnection.attach(detached);
    const path = this.#streams.get(session);
    if (path) return await path.use(connection);
    connection.abort();
    throw sessionEnded();
  }

  #path(session: number): DataPath {
    const found = this.#queuePairs.get(session)?.path ?? this.#streams.get(session);
    if (!found) throw sessionEnded();
    return found;
  }

  #queuePair(session: number): LocalDataPath {
    const found = this.#queuePairs.get(session);
    if (!found) throw sessionEnded();
    return found.path;
  }

  #device(name: string, standardPort: boolean): SharedDevice {
    const known = this.#devices.get(name);
    if (known) return known;
    const device = openDevice(name, { standardPort });
    const ending = new AbortController();
    this.#events.watch(device, ending.signal);
    const shared = { name, device, ending, sessions: 0 };
    this.#devices.set(name, shared);
    return shared;
  }

  async #close(session: number, reason?: string): Promise<FinalState> {
    const stream = this.#streams.get(session);
    this.#streams.delete(session);
    if (stream) return await this.#closePath(stream, reason);
    const found = this.#queuePairs.get(session);
    if (!found) return { usage: {} };
    this.#queuePairs.delete(session);
    try {
      return await this.#closePath(found.path, reason);
    } finally {
      found.shared.sessions -= 1;
      this.#closeIdleDevices();
    }
  }

  async #closePath(path: LocalDataPath | StreamDataPath, reason?: string): Promise<FinalState> {
    try {
      return await path.close(reason);
    } finally {
      this.#paths.delete(path);
      this.#usage = sumOfUsage(this.#usage, path.usage);
    }
  }

  #closeIdleDevices(): void {
    const idle = [...this.#devices.values()].filter(({ sessions }) => sessions === 0);
    for (const shared of idle.slice(MAX_IDLE_DEVICES)) this.#closeDevice(shared);
  }

  #closeDevice({ name, device, ending }: SharedDevice): void {
    this.#devices.delete(name);
    ending.abort();
    device[Symbol.dispose]();
  }

  async #stop(): Promise<void> {
    const sessions = [...this.#queuePairs.keys(), ...this.#streams.keys()];
    await Promise.all(sessions.map((session) => this.#close(session)));
    for (const shared of [...this.#devices.values()]) this.#closeDevice(shared);
    for (const definition of this.#definitions ?? []) definition[Symbol.dispose]?.();
  }
}

function sessionEnded(): ProtocolError {
  return new ProtocolError("session_ended", "the session has ended");
}
