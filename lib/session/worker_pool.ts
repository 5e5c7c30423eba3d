import type { Service } from "../control/messages.ts";
import { fromPlainError, type LimitName, VerbsealError } from "../errors.ts";
import type { PortErrors } from "../rdma/device.ts";
import { logger } from "../telemetry/log.ts";
import type { KernelTls } from "../tls/connection.ts";
import type { DataConnection } from "../tls/data_connection.ts";
import type {
  ConnectOrder,
  DataPath,
  DataPathOptions,
  FinalState,
  LocalQueuePair,
  QueuePairPath,
  QueuePairPathOptions,
  StreamPath,
} from "./data_path.ts";
import type { ResumedTransfer } from "./service.ts";
import { SessionPins } from "./session_pins.ts";
import { type SessionUsage, sumOfUsage } from "./usage.ts";
import type { Method, MethodArguments, MethodResult, WorkerReport } from "./worker_messages.ts";

const log = logger("workers");

/** Who is told what becomes of a data path. */
interface Watcher {
  readonly fail: (error: VerbsealError) => void;
  readonly slowed: (limit: LimitName) => void;
  readonly resumed: (transfer: ResumedTransfer) => void;
}

/** One worker thread and what it is asked. */
class DataWorker {
  readonly #worker: Worker;
  readonly #calls = new Map<number, PromiseWithResolvers<unknown>>();
  readonly #watchers = new Map<number, Watcher>();
  #lastCall = 0;
  #usage: SessionUsage = {};
  #death: VerbsealError | undefined;

  constructor(module: URL, start: unknown, onDeath: (worker: DataWorker) => void) {
    this.#worker = new Worker(module, { type: "module" });
    this.#worker.onmessage = ({ data }) => this.#take(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#die(event.message);
      onDeath(this);
    };
    this.#worker.postMessage(start);
  }

  /** Data paths on this worker. */
  get load(): number {
    return this.#watchers.size;
  }

  /** What services have done on this worker, as far as it has told. */
  get knownUsage(): SessionUsage {
    return this.#usage;
  }

  /** The same, as it is now. */
  async usage(): Promise<SessionUsage> {
    return this.#usage = await this.call(0, "usage");
  }

  call<M extends Method>(
    session: number,
    method: M,
    ...args: MethodArguments<M>
  ): Promise<MethodResult<M>> {
    return this.hand([], session, method, ...args);
  }

  /** The same, and the worker gets these buffers instead of copies of them. */
  hand<M extends Method>(
    buffers: ArrayBuffer[],
    session: number,
    method: M,
    ...args: MethodArguments<M>
  ): Promise<MethodResult<M>> {
    if (this.#death) return Promise.reject(this.#death);
    const call = ++this.#lastCall;
    const answer = Promise.withResolvers<unknown>();
    this.#worker.postMessage({ call, session, method, args }, buffers); // throws what cannot be cloned
    this.#calls.set(call, answer);
    return answer.promise as Promise<MethodResult<M>>;
  }

  /** @throws VerbsealError `worker_died` */
  assertAlive(): void {
    if (this.#death) throw this.#death;
  }

  /** Calls `fail` if the session's data path ends by itself, or the worker does. */
  watch(session: number, watcher: Watcher): void {
    this.#watchers.set(session, watcher);
  }

  unwatch(session: number): void {
    this.#watchers.delete(session);
  }

  async stop(): Promise<void> {
    await this.call(0, "stop");
    this.#worker.terminate();
  }

  #take(report: WorkerReport): void {
    if ("failure" in report) {
      this.#watchers.get(report.session)?.fail(fromPlainError(report.failure));
      return;
    }
    if ("slowed" in report) {
      this.#watchers.get(report.session)?.slowed(report.slowed);
      return;
    }
    if ("resumed" in report) {
      this.#watchers.get(report.session)?.resumed(report.resumed);
      return;
    }
    const answer = this.#calls.get(report.call);
    this.#calls.delete(report.call);
    if ("error" in report) answer?.reject(fromPlainError(report.error));
    else answer?.resolve(report.result);
  }

  #die(message: string): void {
    const error = new VerbsealError("worker_died", `a data worker failed: ${message}`);
    this.#death = error;
    log.error("a data worker failed; what it held in the kernel is freed when the server ends", {
      error: message,
    });
    for (const { reject } of this.#calls.values()) reject(error);
    for (const { fail } of this.#watchers.values()) fail(error);
    this.#calls.clear();
    this.#watchers.clear();
  }
}

/** A data path in a worker, as the control thread sees it. */
class WorkerDataPath implements DataPath {
  readonly failure: Promise<VerbsealError>;
  onSlowed: DataPath["onSlowed"];
  onResumed: DataPath["onResumed"];
  #closed: Promise<FinalState> | undefined;

  /**
   * @param opened the call that makes the path; who first uses it learns of its failure
   * @param closed is called when the path is
   */
  constructor(
    protected readonly worker: DataWorker,
    protected readonly session: number,
    protected readonly opened: Promise<void>,
    private readonly closed: () => void,
  ) {
    const failure = Promise.withResolvers<VerbsealError>();
    this.failure = failure.promise;
    worker.watch(session, {
      fail: failure.resolve,
      slowed: (limit) => this.onSlowed?.(limit),
      resumed: (transfer) => this.onResumed?.(transfer),
    });
    opened.catch(() => {});
  }

  request(service: Service, body: unknown): Promise<unknown> {
    return this.worker.call(this.session, "request", service, body);
  }

  close(reason?: string): Promise<FinalState> {
    return this.#closed ??= this.worker.call(this.session, "close", reason)
      .finally(() => {
        this.worker.unwatch(this.session);
        this.closed();
      });
  }
}

class WorkerStreamPath extends WorkerDataPath implements StreamPath {
  async use(connection: DataConnection): Promise<KernelTls> {
    await this.opened;
    this.worker.assertAlive(); // what is detached is nobody's until a worker has it
    return await this.worker.call(this.session, "use", connection.detach());
  }
}

class WorkerQueuePairPath extends WorkerDataPath implements QueuePairPath {
  async allocate(): Promise<LocalQueuePair> {
    await this.opened;
    return await this.worker.call(this.session, "allocate");
  }

  connect(order: ConnectOrder): Promise<void> {
    const { seal } = order;
    const keys = seal ? [seal.own.buffer, seal.peer.buffer] : [];
    return this.worker.hand(keys, this.session, "connect", order);
  }

  prove(own: Uint8Array, expected: Uint8Array): Promise<void> {
    return this.worker.call(this.session, "prove", own, expected);
  }
}

/**
 * The data workers of a server. Each session is pinned to the one with the fewest, or to that of the
 * session that it goes on with. With the embedded
 * provider each worker has a UDP port of its own, and the first one the port that devices send to:
 * sessions with devices are its.
 */
export class WorkerPool implements AsyncDisposable {
  readonly #workers: DataWorker[];
  readonly #pins: SessionPins<DataWorker>;
  /** What services have done on workers that are dead. */
  #formerUsage: SessionUsage = {};
  #lastSession = 0;

  /**
   * @param module of the workers
   * @param count at least 1
   * @param start the first message to each
   * @param unfinishedSeconds for which what sessions have left unfinished waits for them
   */
  constructor(
    private readonly module: URL,
    count: number,
    private readonly start: unknown,
    unfinishedSeconds?: number,
  ) {
    this.#pins = new SessionPins(unfinishedSeconds);
    this.#workers = Array.from({ length: count }, () => this.#startWorker());
  }

  openDataPath(options: QueuePairPathOptions): QueuePairPath {
    const [first] = this.#workers;
    const needsFirst = options.port.provider === "roce" && options.peerProvider === "verbs";
    const worker = needsFirst ? first! : this.#choose(options);
    const session = ++this.#lastSession;
    const opened = worker.call(session, "open", options, worker === first);
    const closed = this.#pins.hold(options.session, worker);
    return new WorkerQueuePairPath(worker, session, opened, closed);
  }

  openStreamPath(options: DataPathOptions): StreamPath {
    const worker = this.#choose(options);
    const session = ++this.#lastSession;
    const opened = worker.call(session, "openStream", options);
    const closed = this.#pins.hold(options.session, worker);
    return new WorkerStreamPath(worker, session, opened, closed);
  }

  /** Of all devices that are open; a device of libibverbs comes once for each worker. */
  async errorCounters(): Promise<PortErrors[]> {
    const answers = await Promise.allSettled(
      this.#workers.map((worker) => worker.call(0, "errorCounters")),
    );
    return answers.flatMap((answer) => answer.status === "fulfilled" ? answer.value : []);
  }

  /** What services have done since the start; of a worker that died, as far as it had told. */
  async usage(): Promise<SessionUsage> {
    await Promise.allSettled(this.#workers.map((worker) => worker.usage()));
    return this.#workers.map(({ knownUsage }) => knownUsage).reduce(sumOfUsage, this.#formerUsage);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.#workers.map((worker) => worker.stop()));
    this.#pins[Symbol.dispose]();
  }

  #choose({ session, resume }: DataPathOptions): DataWorker {
    const pinned = this.#pins.find(session, resume);
    if (pinned && this.#workers.includes(pinned)) return pinned;
    return this.#workers.reduce((least, next) => next.load < least.load ? next : least);
  }

  #startWorker(): DataWorker {
    return new DataWorker(this.module, this.start, (dead) => {
      this.#formerUsage = sumOfUsage(this.#formerUsage, dead.knownUsage);
      this.#workers[this.#workers.indexOf(dead)] = this.#startWorker();
    });
  }
}
