import type { Memory } from "../../ffi/memory.ts";
import type { Service } from "../control/messages.ts";
import { delay } from "@std/async/delay";
import { asVerbsealError, ProtocolError, TlsError, type VerbsealError } from "../errors.ts";
import { Breather } from "../rdma/breather.ts";
import type { Access, MemoryRegion } from "../rdma/memory_region.ts";
import { Opcode } from "../rdma/work_request.ts";
import { type Permissions, unrestricted } from "../security/policy.ts";
import type { DataStream, KernelTls } from "../tls/connection.ts";
import { ClientTurns, type SessionTurns } from "./client_turns.ts";
import type { DataPathOptions, FinalState, StreamPath } from "./data_path.ts";
import { RegisteredBuffer } from "./grants.ts";
import { checkMessageLength } from "./messenger.ts";
import { Pace } from "./pace.ts";
import { RegisteredBytes } from "./registered_bytes.ts";
import { LimitedStream, REKEY_BYTES } from "./sealing_limit.ts";
import type {
  LentBuffer,
  MessageKind,
  RemoteBuffer,
  ServiceAccess,
  ServiceDefinition,
  SessionService,
} from "./service.ts";
import { type FrameHeader, FrameParser, type FrameSink, FrameType } from "./stream_frames.ts";
import { StreamMemory } from "./stream_memory.ts";
import { StreamTransfers } from "./stream_transfers.ts";
import { type Outgoing, StreamWriter } from "./stream_writer.ts";
import { TokenBucket } from "./token_bucket.ts";
import { TRANSFERS } from "./transfers.ts";
import { type SessionUsage, usageOf } from "./usage.ts";

/** Bytes read at once. */
const READ_BYTES = 2 ** 17;

/** Milliseconds that the peer has to say BYE once it has ended its data connection. */
const FAREWELL = 1000;

/** What tests, or the worker that has the path, put in a part's place. */
export interface StreamPathParts {
  /** Bytes that a connection carries before another one is due. */
  readonly rekeyBytes?: number | undefined;
  /** Of the clients of this thread. */
  readonly turns?: ClientTurns;
}

/** What runs once there is a connection. */
interface Running {
  readonly writer: StreamWriter;
  readonly transfers: StreamTransfers;
  readonly services: Map<Service, SessionService>;
  readonly reading: Promise<void>;
}

/** The next connection of a session. */
interface Replacement {
  readonly stream: DataStream;
  /** It is the one that is read from. */
  readonly taken: () => void;
}

/** A data path over data connections, in this thread. */
export class StreamDataPath implements StreamPath, ServiceAccess, FrameSink {
  readonly failure: Promise<VerbsealError>;
  readonly permissions: Permissions;
  onSlowed: StreamPath["onSlowed"];
  onResumed: StreamPath["onResumed"];
  readonly identity: string | undefined;
  readonly owner: string | undefined;
  readonly session: string | undefined;
  readonly #fail: (error: unknown) => void;
  readonly #options: DataPathOptions;
  readonly #definitions: readonly ServiceDefinition[];
  readonly #servicesByKind = new Map<number, SessionService>();
  readonly #ending = new AbortController();
  readonly #memory = new StreamMemory();
  readonly #registered: RegisteredBytes;
  readonly #grants: Pace | undefined;
  /** Frames that the peer may send. */
  readonly #rate: TokenBucket | undefined;
  /** Connections that are neither retired nor aborted. */
  readonly #open = new Set<DataStream>();
  readonly #rekeyBytes: number;
  readonly turns: SessionTurns;
  readonly #retiring = new Set<Promise<void>>();
  #running: Running | undefined;
  /** The one that is written to and read from; for a moment, in part its replacement is. */
  #stream: LimitedStream | undefined;
  #replacement = Promise.withResolvers<Replacement>();
  #farewell: ReturnType<typeof setTimeout> | undefined;
  /** Transfers of the peer that are not answered yet. */
  #answers = 0;
  #closed: Promise<FinalState> | undefined;

  /**
   * @param definitions of the services that may run on this path; those of `options.services` do
   */
  constructor(
    options: DataPathOptions,
    definitions: readonly ServiceDefinition[],
    { rekeyBytes = REKEY_BYTES, turns = new ClientTurns() }: StreamPathParts = {},
  ) {
    this.#rekeyBytes = rekeyBytes;
    this.turns = turns.join(options.owner ?? "");
    const failure = Promise.withResolvers<VerbsealError>();
    this.failure = failure.promise;
    this.#fail = (error) => {
      const known = asVerbsealError("data_path", error);
      failure.resolve(known);
      this.#ending.abort(known);
      this.turns[Symbol.dispose]();
    };
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
    this.#options = options;
    this.#rate = options.limits && new TokenBucket(options.limits.messagesPerSecond);
    this.#definitions = definitions.filter(({ name }) => options.services.includes(name));
  }

  /** What services have done so far. */
  get usage(): SessionUsage {
    return this.#running ? usageOf(this.#running.services) : {};
  }

  get signal(): AbortSignal {
    return this.#ending.signal;
  }

  async use(connection: DataStream): Promise<KernelTls> {
    connection.onWorked = (milliseconds) => this.turns.worked(milliseconds);
    const stream = new LimitedStream(connection, this.#rekeyBytes);
    this.#open.add(stream);
    if (this.signal.aborted) {
      stream.abort();
      throw this.signal.reason;
    }
    if (this.#running) await this.#replaceBy(stream, this.#running.writer);
    else this.#begin(stream);
    return stream.kernel;
  }

  /** Resolves when another connection should replace the present one. */
  renewalDue(): Promise<void> {
    return this.#stream!.due;
  }

  async request(service: Service, body: unknown): Promise<unknown> {
    const running = this.#running?.services.get(service);
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
        ? new TlsError("session_ended", "the session has ended")
        : new TlsError("given_up", `the data connection is given up: ${reason}`),
    );
  }

  send(kind: MessageKind, id: number, body: Uint8Array): void {
    checkMessageLength(body.length, this.#options.messageBytes);
    this.#live().writer.message(kind, id, body);
  }

  registerMemory(
    memory: Memory,
    access: readonly Access[],
    offset = 0,
    length = memory.length - offset,
  ): MemoryRegion {
    return this.#registered.count(
      length,
      () => this.#memory.registerMemory(memory, access, offset, length),
    );
  }

  async grantTurn(): Promise<void> {
    await this.#grants?.turn();
  }

  lend(memory: Memory, offset = 0, length = memory.length - offset): LentBuffer {
    const counted = this.#registered.reserve(length);
    return new RegisteredBuffer(this.#memory, { memory, offset, length }, offset, counted);
  }

  transfer(
    opcode: typeof Opcode.READ | typeof Opcode.WRITE,
    local: MemoryRegion,
    localOffset: number,
    length: number,
    remote: RemoteBuffer,
  ): Promise<void> {
    const { transfers } = this.#live();
    return opcode === Opcode.WRITE
      ? transfers.write({ region: local, offset: localOffset }, length, remote)
      : transfers.read(local, localOffset, length, remote);
  }

  /** Only where the kernel seals: elsewhere the bytes would be read a second time. */
  get writeFile(): ServiceAccess["writeFile"] {
    if (!this.#stream?.kernel.send) return undefined;
    return (file, length, remote) => this.#live().transfers.write(file, length, remote);
  }

  message(kind: number, id: number, body: Uint8Array): void {
    this.#rate?.spend();
    const service = this.#servicesByKind.get(kind);
    if (!service?.message) {
      throw new ProtocolError("message_kind", `message of kind ${kind} out of turn`);
    }
    service.message(kind as MessageKind, id, body);
  }

  segment({ type, id, key, kind, offset, length }: FrameHeader): void {
    this.#rate?.spend();
    if (type === FrameType.WRITE) this.#memory.opened(key, "REMOTE_WRITE", offset, length);
    else this.#live().transfers.segment(id, offset, length, kind === 1);
  }

  piece({ type, id, key, offset }: FrameHeader, at: number, bytes: Uint8Array): void {
    if (type === FrameType.DATA) return this.#live().transfers.take(id, bytes);
    this.#memory.opened(key, "REMOTE_WRITE", offset + at, bytes.length).set(bytes);
  }

  segmentEnd({ type, id, kind }: FrameHeader): void {
    if (type === FrameType.DATA) this.#live().transfers.taken(id);
    else if (kind === 1) this.#answer({ type: FrameType.WRITTEN, id, length: 0 }, undefined);
  }

  control({ type, id, key, offset, length }: FrameHeader): void {
    this.#rate?.spend();
    if (type === FrameType.WRITTEN) return this.#live().transfers.written(id);
    this.#memory.opened(key, "REMOTE_READ", offset, length);
    this.#answer(
      { type: FrameType.DATA, id, length },
      (at, count) => this.#memory.opened(key, "REMOTE_READ", offset + at, count),
    );
  }

  #live(): Running {
    this.signal.throwIfAborted();
    return this.#running!;
  }

  /** An honest peer has no more transfers under way than these; some may be answered and not yet counted. */
  #answer(answer: Pick<Outgoing, "type" | "id" | "length">, source: Outgoing["source"]): void {
    if (++this.#answers > 2 * TRANSFERS) {
      throw new ProtocolError("transfers", `more than ${TRANSFERS} transfers at once`);
    }
    const sent = () => this.#answers -= 1;
    this.#live().writer.transfer({ ...answer, key: 0, offset: 0, source, sent });
  }

  #begin(stream: LimitedStream): void {
    this.#stream = stream;
    const writer = new StreamWriter(stream, this.turns, this.#fail);
    const transfers = new StreamTransfers(this.#memory, writer);
    const services = new Map<Service, SessionService>();
    const reading = Promise.resolve().then(() => this.#read(stream)).catch(this.#fail);
    this.#running = { writer, transfers, services, reading };
    for (const definition of this.#definitions) {
      const service = definition.start(this);
      services.set(definition.name, service);
      for (const kind of definition.kinds) this.#servicesByKind.set(kind, service);
    }
  }

  async #replaceBy(stream: LimitedStream, writer: StreamWriter): Promise<void> {
    const taken = Promise.withResolvers<void>();
    this.#replacement.resolve({ stream, taken: taken.resolve });
    await this.#unlessEnded(Promise.all([writer.switchTo(stream), taken.promise]));
    const old = this.#stream!;
    this.#stream = stream;
    this.#retire(old);
  }

  /** Takes what comes, over one connection after the other. */
  async #read(first: DataStream): Promise<void> {
    const buffer = new Uint8Array(READ_BYTES);
    for (let stream = first; await this.#readAll(stream, buffer);) {
      const next = await this.#unlessEnded(this.#replacement.promise);
      this.#replacement = Promise.withResolvers();
      next.taken();
      stream = next.stream;
    }
  }

  /** Takes all of one connection; false when no other will follow. */
  async #readAll(stream: DataStream, buffer: Uint8Array): Promise<boolean> {
    const parser = new FrameParser(this.#options.messageBytes, this);
    const breather = new Breather();
    while (!this.signal.aborted) {
      if (this.turns.mustWait) await this.turns.turn();
      if (this.signal.aborted) break;
      const count = await stream.read(buffer);
      if (this.signal.aborted) return false;
      if (count === null) {
        this.#endOf(stream, parser);
        return false;
      }
      const started = performance.now();
      parser.push(buffer.subarray(0, count));
      this.turns.worked(performance.now() - started);
      if (parser.switched) return true;
      await this.#room();
      await this.#slowDown(this.#rate?.wait ?? 0);
      if (breather.due()) await breather.breathe();
    }
    return false;
  }

  /** A peer that takes no answers gets no room for further questions; only one side may wait so. */
  async #room(): Promise<void> {
    const { writer } = this.#live();
    if (writer.queuedBytes <= (this.#options.limits?.queuedBytes ?? Infinity)) return;
    await writer.drained();
  }

  /** A peer that is too fast is not read from, and TCP makes it wait. */
  async #slowDown(milliseconds: number): Promise<void> {
    if (milliseconds === 0) return;
    this.onSlowed?.("message_rate");
    await delay(milliseconds, { signal: this.signal }).catch(() => {});
  }

  /** In an orderly end the peer also says BYE, on another connection. */
  #endOf(stream: DataStream, { atBoundary }: FrameParser): void {
    if (!atBoundary) {
      throw new ProtocolError("frame_cut_off", "the data connection ended within a frame");
    }
    this.#retire(stream);
    const ended = new TlsError("hung_up", "the other side closed the data connection");
    this.#farewell = setTimeout(() => this.#fail(ended), FAREWELL);
  }

  #unlessEnded<T>(work: Promise<T>): Promise<T> {
    return Promise.race([work, this.failure.then((error) => Promise.reject(error))]);
  }

  /** Closes a connection in order; nobody waits for the peer before the session ends. */
  #retire(stream: DataStream): void {
    if (!this.#open.delete(stream)) return;
    const closing = stream.close().finally(() => this.#retiring.delete(closing));
    this.#retiring.add(closing);
  }

  async #close(why: VerbsealError): Promise<FinalState> {
    const failed = this.signal.aborted;
    this.#fail(why);
    clearTimeout(this.#farewell);
    const running = this.#running;
    const written = running?.writer.end();
    for (const stream of [...this.#open]) {
      if (failed) stream.abort();
      else this.#retire(stream);
    }
    await Promise.allSettled([...this.#retiring, written, running?.reading]);
    // Nothing refers to registered memory any more.
    running?.transfers.abort(this.signal.reason);
    const services = [...running?.services.values() ?? []];
    await Promise.allSettled(services.map((service) => service[Symbol.asyncDispose]()));
    return { usage: this.usage };
  }
}
