import { timingSafeEqual } from "@std/crypto/timing-safe-equal";
import type { Memory } from "../../ffi/memory.ts";
import type { Service } from "../control/messages.ts";
import { checkStandardPort } from "../control/path.ts";
import {
  asVerbsealError,
  IntegrityError,
  ProtocolError,
  QueuePairError,
  RdmaError,
  type VerbsealError,
} from "../errors.ts";
import type { CompletionQueue, WorkCompletions } from "../rdma/completion_queue.ts";
import type { AsyncEvent, Device } from "../rdma/device.ts";
import type { Access, MemoryRegion } from "../rdma/memory_region.ts";
import type { ProtectionDomain } from "../rdma/protection_domain.ts";
import type { QueuePair } from "../rdma/queue_pair.ts";
import type { Opcode } from "../rdma/work_request.ts";
import type {
  ConnectOrder,
  DataPath,
  FinalState,
  LocalQueuePair,
  QueuePairPath,
  QueuePairPathOptions,
} from "./data_path.ts";
import { Breather } from "../rdma/breather.ts";
import { type Permissions, unrestricted } from "../security/policy.ts";
import { type KeyLimits, keyLimits } from "../security/record_lane.ts";
import { SessionSeal, wipeKeys } from "../security/seal.ts";
import { bringUp } from "./bring_up.ts";
import { ClientTurns, type SessionTurns } from "./client_turns.ts";
import { RegisteredBuffer, WindowedBuffer } from "./grants.ts";
import { MESSAGE_SENDS, Messenger, RECEIVES } from "./messenger.ts";
import { Pace } from "./pace.ts";
import { RegisteredBytes } from "./registered_bytes.ts";
import {
  type LentBuffer,
  MessageKind,
  type RemoteBuffer,
  type ServiceAccess,
  type ServiceDefinition,
  type SessionService,
} from "./service.ts";
import { TokenBucket } from "./token_bucket.ts";
import { TRANSFERS, Transfers } from "./transfers.ts";
import { type SessionUsage, usageOf } from "./usage.ts";
import { WorkRequestId } from "./work_request_id.ts";

/** READs that a session has outstanding each way; the device may allow less. */
const RD_ATOMIC = 16;

/** What tests, or the worker that has the path, put in a part's place. */
export interface PathParts {
  /** What goes under one key; both sides must have the same, so only tests have others. */
  readonly sealLimits?: KeyLimits;
  /** Of the clients of this thread. */
  readonly turns?: ClientTurns;
}

interface Resources {
  readonly stack: DisposableStack;
  readonly protectionDomain: ProtectionDomain;
  readonly queue: CompletionQueue;
  readonly queuePair: QueuePair;
  readonly messenger: Messenger;
  readonly transfers: Transfers;
}

/** A data path over a queue pair, in this thread. */
export class LocalDataPath implements QueuePairPath, ServiceAccess {
  readonly failure: Promise<VerbsealError>;
  readonly permissions: Permissions;
  onSlowed: DataPath["onSlowed"];
  onResumed: DataPath["onResumed"];
  readonly identity: string | undefined;
  readonly owner: string | undefined;
  readonly session: string | undefined;
  readonly #registered: RegisteredBytes;
  readonly #grants: Pace | undefined;
  readonly #fail: (error: VerbsealError) => void;
  readonly #device: Device;
  readonly #options: QueuePairPathOptions;
  readonly #definitions: readonly ServiceDefinition[];
  readonly #services = new Map<Service, SessionService>();
  readonly #servicesByKind = new Map<number, SessionService>();
  readonly #ending = new AbortController();
  readonly #sealLimits: KeyLimits;
  readonly turns: SessionTurns;
  #resources: Resources | undefined;
  #seal: SessionSeal | undefined;
  /** While the queue pair is brought up. */
  #connecting: Promise<void> | undefined;
  #pump: Promise<void> = Promise.resolve();
  #proof: { readonly expected: Uint8Array; readonly accept: () => void } | undefined;
  #earlyProof: Uint8Array | undefined;
  #proven = false;
  #closed: Promise<FinalState> | undefined;

  /**
   * @param device stays the caller's
   * @param definitions of the services that may run on this path; those of `options.services` do
   */
  constructor(
    device: Device,
    options: QueuePairPathOptions,
    definitions: readonly ServiceDefinition[],
    { sealLimits = keyLimits, turns = new ClientTurns() }: PathParts = {},
  ) {
    this.#sealLimits = sealLimits;
    this.turns = turns.join(options.owner ?? "");
    const failure = Promise.withResolvers<VerbsealError>();
    this.failure = failure.promise;
    this.#fail = (error) => {
      failure.resolve(error);
      this.#ending.abort(error);
      this.turns[Symbol.dispose]();
    };
    this.#device = device;
    this.#options = options;
    this.permissions = options.permissions ?? unrestricted.permissions;
    this.#grants = options.limits &&
      new Pace(
        options.limits.grantsPerSecond,
        () => this.onSlowed?.("grant_rate"),
        this.signal,
      );
    this.identity = options.identity;
    this.owner = options.owner;
    this.session = options.session;
    this.#registered = new RegisteredBytes(this.permissions.registeredBytes);
    this.#definitions = definitions.filter(({ name }) => options.services.includes(name));
  }

  /** What services have done so far. */
  get usage(): SessionUsage {
    return usageOf(this.#services);
  }

  get seal(): SessionSeal | undefined {
    return this.#seal;
  }

  get signal(): AbortSignal {
    return this.#ending.signal;
  }

  // deno-lint-ignore require-await -- a worker's data path answers later
  async allocate(): Promise<LocalQueuePair> {
    const { port, peerProvider, limits: allowed } = this.#options;
    const { limits, udpPort } = this.#device;
    if (peerProvider === "verbs") checkStandardPort(port.gid, udpPort);
    using stack = new DisposableStack();
    const protectionDomain = stack.use(this.#device.allocateProtectionDomain());
    const queue = stack.use(
      this.#device.createCompletionQueue(MESSAGE_SENDS + TRANSFERS + RECEIVES),
    );
    const queuePair = stack.use(protectionDomain.createQueuePair({
      sendQueue: queue,
      receiveQueue: queue,
      maxSend: MESSAGE_SENDS + TRANSFERS,
      maxReceive: RECEIVES,
    }));
    const messenger = stack.use(
      new Messenger({
        protectionDomain,
        queuePair,
        receives: RECEIVES,
        messageBytes: this.#options.messageBytes,
        maxQueuedBytes: allowed?.queuedBytes ?? Infinity,
        rate: allowed && new TokenBucket(allowed.messagesPerSecond),
        onTooFast: (milliseconds) => this.#slowDown(milliseconds),
        onMessage: (kind, id, body) => this.#dispatch(kind, id, body),
      }),
    );
    const transfers = new Transfers(queuePair);
    this.#resources = {
      stack: stack.move(),
      protectionDomain,
      queue,
      queuePair,
      messenger,
      transfers,
    };
    this.#device.onAsyncEvent((event) => this.#asyncEvent(event), this.signal);
    return {
      qpn: queuePair.qpn,
      gid: port.gid,
      gidType: port.gidType,
      lid: port.lid,
      mtu: port.mtu,
      maxRdAtomic: Math.min(RD_ATOMIC, limits.maxRdAtomic),
      maxDestRdAtomic: Math.min(RD_ATOMIC, limits.maxDestRdAtomic),
      receives: RECEIVES,
      ...(udpPort === undefined ? {} : { udpPort }),
    };
  }

  async connect(order: ConnectOrder): Promise<void> {
    this.#connecting = this.#connect(order);
    try {
      await this.#connecting;
    } finally {
      this.#connecting = undefined;
      if (order.seal) wipeKeys(order.seal);
    }
  }

  async #connect(order: ConnectOrder): Promise<void> {
    const { queuePair, messenger, stack } = this.#allocated();
    if (order.seal) {
      const { side } = this.#options;
      const limits = this.#sealLimits;
      this.#seal = stack.use(
        new SessionSeal(order.seal, { side, fail: this.#fail, limits, worked: this.#worked }),
      );
      messenger.sealWith(stack.use(this.#seal.channel("messages")));
    }
    await bringUp(queuePair, this.#options.port, order, () => messenger.postReceives());
    this.signal.throwIfAborted();
    messenger.grant(order.remote.receives);
    this.#pump = this.#pumpCompletions();
  }

  async prove(own: Uint8Array, expected: Uint8Array): Promise<void> {
    const received = Promise.withResolvers<void>();
    this.#proof = { expected, accept: received.resolve };
    this.#allocated().messenger.send(MessageKind.PROOF, 0, own);
    if (this.#earlyProof) this.#checkProof(this.#earlyProof);
    await Promise.race([received.promise, this.failure.then((error) => Promise.reject(error))]);
  }

  async request(service: Service, body: unknown): Promise<unknown> {
    const running = this.#services.get(service);
    if (!running?.request) {
      throw new ProtocolError("service", `there is no service ${service} in this session`);
    }
    await this.turns.turn();
    this.signal.throwIfAborted();
    return await running.request(body);
  }

  close(reason?: string): Promise<FinalState> {
    return this.#closed ??= this.#close(
      reason === undefined
        ? new RdmaError("session_ended", "the session has ended")
        : new QueuePairError("queue_pair_failed", `the queue pair is given up: ${reason}`),
    );
  }

  send(kind: MessageKind, id: number, body: Uint8Array): void {
    this.#allocated().messenger.send(kind, id, body);
  }

  registerMemory(
    memory: Memory,
    access: readonly Access[],
    offset?: number,
    length?: number,
  ): MemoryRegion {
    const { protectionDomain } = this.#allocated();
    const started = performance.now();
    const region = this.#registered.count(
      length ?? memory.length - (offset ?? 0),
      () => protectionDomain.registerMemory(memory, access, offset, length),
    );
    this.turns.worked(performance.now() - started);
    return region;
  }

  async grantTurn(): Promise<void> {
    await this.#grants?.turn();
  }

  lend(memory: Memory, offset = 0, length = memory.length - offset): LentBuffer {
    const { protectionDomain, transfers } = this.#allocated();
    const range = { memory, offset, length };
    const counted = this.#registered.reserve(length);
    const { allocateMemoryWindow } = protectionDomain;
    return allocateMemoryWindow && this.#device.guardsMemoryWindows
      ? new WindowedBuffer(protectionDomain, allocateMemoryWindow, transfers, range, counted)
      : new RegisteredBuffer(protectionDomain, range, memory.address + offset, counted);
  }

  transfer(
    opcode: typeof Opcode.READ | typeof Opcode.WRITE,
    local: MemoryRegion,
    localOffset: number,
    length: number,
    remote: RemoteBuffer,
  ): Promise<void> {
    return this.#allocated().transfers.start(opcode, local, localOffset, length, remote);
  }

  /** Of what services do, beside the completions that they wait for. */
  #worked = (milliseconds: number) => this.turns.worked(milliseconds);

  #allocated(): Resources {
    this.signal.throwIfAborted();
    return this.#resources!;
  }

  async #pumpCompletions(): Promise<void> {
    const { queue } = this.#allocated();
    const breather = new Breather();
    try {
      while (!this.signal.aborted) {
        const count = await queue.next();
        if (this.turns.mustWait) await this.turns.turn();
        if (this.signal.aborted) break;
        const started = performance.now();
        for (let index = 0; index < count; index++) this.#complete(queue.completions, index);
        this.turns.worked(performance.now() - started);
        if (breather.due()) await breather.breathe();
      }
    } catch (error) {
      this.#fail(asVerbsealError("data_path", error));
    }
  }

  #complete(completions: WorkCompletions, index: number): void {
    if (!completions.succeeded(index)) throw completions.error(index);
    const { messenger, transfers } = this.#resources!;
    const id = completions.wrId(index);
    if (WorkRequestId.isReceive(id)) {
      if (completions.hasImmediate(index)) {
        throw new ProtocolError(
          "immediate",
          "the peer sent immediate data, which nothing here uses",
        );
      }
      messenger.receiveCompleted(WorkRequestId.slot(id), completions.byteLength(index));
    } else if (WorkRequestId.isSend(id)) {
      messenger.sendCompleted();
    } else {
      transfers.completed(WorkRequestId.slot(id));
    }
  }

  /** The peer's credits are withheld for so long. */
  #slowDown(milliseconds: number): void {
    this.onSlowed?.("message_rate");
    const timer = setTimeout(() => {
      this.signal.removeEventListener("abort", cancel);
      try {
        this.#resources!.messenger.resume();
      } catch (error) {
        this.#fail(asVerbsealError("data_path", error));
      }
    }, milliseconds);
    const cancel = () => clearTimeout(timer);
    this.signal.addEventListener("abort", cancel, { once: true });
  }

  #dispatch(kind: number, id: number, body: Uint8Array): void {
    const service = this.#servicesByKind.get(kind);
    if (service?.message) return service.message(kind as MessageKind, id, body);
    if (kind !== MessageKind.PROOF || this.#proven || this.#earlyProof) {
      throw new ProtocolError("message_kind", `message of kind ${kind} out of turn`);
    }
    // The peer's proof may be faster than the order to expect it.
    if (this.#proof) this.#checkProof(body);
    else this.#earlyProof = body.slice();
  }

  /** Services begin at once, as the next message may be theirs. */
  #checkProof(body: Uint8Array): void {
    const { expected, accept } = this.#proof!;
    if (body.length !== expected.length || !timingSafeEqual(body, expected)) {
      throw new IntegrityError(
        "proof",
        "the peer of the queue pair is not the peer of the TLS connection",
        "someone may be tampering with the RDMA network",
      );
    }
    this.#proven = true;
    this.#earlyProof = undefined;
    for (const definition of this.#definitions) {
      const service = definition.start(this);
      this.#services.set(definition.name, service);
      for (const kind of definition.kinds) this.#servicesByKind.set(kind, service);
    }
    accept();
  }

  #asyncEvent(event: AsyncEvent): void {
    const { qpn, completionQueue, port } = event;
    const { queuePair, queue } = this.#resources!;
    const others = (qpn !== undefined && qpn !== queuePair.qpn) ||
      (completionQueue !== undefined && completionQueue !== queue.address) ||
      (port !== undefined && port !== this.#options.port.port);
    if (!event.fatal || others) return;
    const FailureError = qpn === undefined ? RdmaError : QueuePairError;
    this.#fail(
      new FailureError(
        event.name.toLowerCase(),
        `the device ${this.#device.name} reported ${event.name}`,
        event.port === undefined ? "" : "check the link of the port",
      ),
    );
  }

  async #close(why: VerbsealError): Promise<FinalState> {
    // Whoever waits for the peer, prove() for one, waits no more.
    this.#fail(why);
    return {
      queuePair: this.#resources && await this.#free(this.#resources),
      usage: this.usage, // of services that have ended
    };
  }

  async #free(
    { protectionDomain, queuePair, transfers, stack }: Resources,
  ): Promise<FinalState["queuePair"]> {
    // Another thread may be at it: nothing of it is given back meanwhile.
    if (this.#connecting) await this.#connecting.catch(() => {});
    try {
      const { sqPsn } = queuePair.query();
      // Work requests end before the memory that they refer to.
      if (queuePair.state !== "RESET") queuePair.modify({ state: "ERR" });
      return { qpn: queuePair.qpn, sqPsn };
    } finally {
      transfers.abort(this.signal.reason);
      await Promise.allSettled(
        [...this.#services.values()].map((service) => service[Symbol.asyncDispose]()),
      );
      await protectionDomain.settled?.();
      stack.dispose();
      await this.#pump;
    }
  }
}
