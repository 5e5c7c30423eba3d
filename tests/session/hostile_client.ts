/** A client that can stop or lie at any step: TLS, exchange, queue pair, messages and transfers. */
import { Memory } from "../../ffi/memory.ts";
import { ClientExchange, type Step } from "../../lib/control/exchange.ts";
import { type Frame, FrameDecoder, type FrameName, makeFrame } from "../../lib/control/frame.ts";
import {
  decode,
  encode,
  type Message,
  type QueuePairNumbers,
  type Seal,
  type Service,
} from "../../lib/control/messages.ts";
import type { RdmaError } from "../../lib/errors.ts";
import type { Device } from "../../lib/rdma/device.ts";
import { selectPort } from "../../lib/rdma/provider.ts";
import { Opcode, SendFlag } from "../../lib/rdma/work_request.ts";
import { portChoice } from "../../lib/services/port_choice.ts";
import { bringUp } from "../../lib/session/bring_up.ts";
import { RECORD_OVERHEAD, type RecordSeal, SessionSeal } from "../../lib/security/seal.ts";
import type { PortChoice } from "../../lib/session/data_path.ts";
import { FRAGMENT_BYTES, payloadBytes } from "../../lib/session/messenger.ts";
import { MessageKind, type RemoteBuffer } from "../../lib/session/service.ts";
import { endpointText, protocol } from "../../lib/tls/connection.ts";
import { closeAtOnce } from "../../lib/tls/deno_connection.ts";
import { closeQuietly } from "../../lib/tls/tcp.ts";
import { provider } from "../provider.ts";
import { ReliableEnd } from "../rdma/resources.ts";

/** Receives posted, and sends outstanding at most. */
const SLOTS = 16;

/** READs that it offers to have outstanding each way, unless told. */
const RD_ATOMIC = 4;

/** Memory: received fragments, then fragments to send, then a window for file transfers. */
const SEND_BASE = SLOTS * FRAGMENT_BYTES;
const WINDOW_BASE = 2 * SEND_BASE;
export const WINDOW_BUFFERS = 4;
export const WINDOW_BUFFER_BYTES = 65536;
const MEMORY_BYTES = WINDOW_BASE + WINDOW_BUFFERS * WINDOW_BUFFER_BYTES;

/** A fragment of a message, each field as true or false as wanted. */
export interface Fragment {
  readonly kind: number;
  readonly last?: boolean;
  readonly credits?: number;
  readonly id?: number;
  /** Bytes of the message that it claims to be of. */
  readonly total?: number;
  readonly offset?: number;
  readonly payload?: Uint8Array;
  /** Bytes that are sent, header included, whatever the fields say. */
  readonly bytes?: number;
}

/** What came of a fragment: its header's kind and id. */
export interface Arrival {
  readonly kind: number;
  readonly id: number;
}

/** Plain TCP, for what comes before TLS. Gives the peer's name in the server's log. */
export async function tcpConnection(port: number): Promise<{ tcp: Deno.TcpConn; peer: string }> {
  const tcp = await Deno.connect({ hostname: provider.address, port });
  return { tcp, peer: endpointText(tcp.localAddr) };
}

export interface HostileClientOptions {
  readonly alpnProtocols?: string[] | undefined;
  /** What it offers to seal with, and does as long as it does not lie. */
  readonly seal?: Seal;
  /** Of its device; that of the provider of these tests unless told. */
  readonly port?: PortChoice;
  /** READs that it offers to have outstanding each way. */
  readonly rdAtomic?: number;
  /** UDP port of the server's address that its packets go to: of somebody who stands in their way. */
  readonly detour?: number | undefined;
}

type Connect = Step & { do: "connect" };
type Prove = Step & { do: "prove" };

export class HostileClient implements Disposable {
  readonly #tls: Deno.TlsConn;
  readonly #device: Device;
  readonly #port: PortChoice;
  readonly #rdAtomic: number;
  readonly #detour: number | undefined;
  readonly #decoder = new FrameDecoder();
  readonly #frames: Frame[] = [];
  readonly #exchange: ClientExchange;
  readonly #arrivals: Arrival[] = [];
  readonly #failure = Promise.withResolvers<RdmaError>();
  #arrival = Promise.withResolvers<void>();
  #end: ReliableEnd | undefined;
  #connect: Connect | undefined;
  #prove: Prove | undefined;
  #sent = 0;
  #completed = 0;
  #lastRequest = 0;
  #withholding = false;

  #seal: SessionSeal | undefined;
  /** Of the messages, if they are sealed. */
  #channel: RecordSeal | undefined;
  readonly #draft = new Memory(FRAGMENT_BYTES);
  readonly #opened = new Memory(FRAGMENT_BYTES);

  private constructor(
    tls: Deno.TlsConn,
    device: Device,
    port: PortChoice,
    seal: Seal,
    rdAtomic: number,
    detour: number | undefined,
  ) {
    this.#rdAtomic = rdAtomic;
    this.#tls = tls;
    this.#device = device;
    this.#port = port;
    this.#detour = detour;
    this.#exchange = new ClientExchange({
      offers: {
        transports: ["rdma"],
        providers: [port.provider],
        connect: ["tls"],
        seal: [seal],
        services: ["messages", "memory", "files"],
      },
      agent: "hostile",
    });
    this.peer = endpointText(tls.localAddr);
  }

  /** Finishes the TLS handshake. */
  static async connect(
    server: { readonly port: number },
    authority: string,
    device: Device,
    options: HostileClientOptions = {},
  ): Promise<HostileClient> {
    const {
      alpnProtocols = [protocol],
      seal = "aes-256-gcm",
      rdAtomic = RD_ATOMIC,
      detour,
    } = options;
    const { port = portChoice(selectPort(provider.device, provider.address)) } = options;
    const { address: hostname } = provider;
    const caCerts = [authority];
    const tls = await Deno.connectTls({ hostname, port: server.port, caCerts, alpnProtocols });
    await tls.handshake();
    return new HostileClient(tls, device, port, seal, rdAtomic, detour);
  }

  /** Its name in the server's log. */
  readonly peer: string;

  async writeBytes(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) at += await this.#tls.write(bytes.subarray(at));
  }

  async send(message: Message): Promise<void> {
    await this.writeBytes(encode(message).bytes);
  }

  /** Sends a frame whose body is anything at all. */
  async sendBody(name: FrameName, body: unknown): Promise<void> {
    await this.writeBytes(makeFrame(name, new TextEncoder().encode(JSON.stringify(body))).bytes);
  }

  /** HELLO and SECRET; takes WELCOME and SECRET. */
  async enter(): Promise<void> {
    await this.#take(this.#exchange.start());
    for (const _ of ["WELCOME", "SECRET"]) await this.#receive();
  }

  /** Makes a queue pair and sends what it says of it, with lies; does not wait for an answer. */
  async offerQueuePair(lies: Record<string, unknown> = {}): Promise<void> {
    this.#end = new ReliableEnd(this.#device, MEMORY_BYTES);
    const { gid, gidType, lid, mtu } = this.#port;
    const { udpPort } = this.#device;
    const numbers: QueuePairNumbers = {
      epoch: 0,
      qpn: this.#end.queuePair.qpn,
      psn: this.#end.psn,
      gid,
      gidType,
      lid,
      mtu,
      maxRdAtomic: this.#rdAtomic,
      maxDestRdAtomic: this.#rdAtomic,
      receives: SLOTS,
      ...(udpPort === undefined ? {} : { udpPort }),
    };
    const [step] = this.#exchange.allocated(numbers);
    if (Object.keys(lies).length === 0) await this.#take([step!]);
    else await this.sendBody("QP", { ...numbers, ...lies });
  }

  /** Takes the server's QP, brings its own queue pair to RTS, and sends READY. */
  async bringUp(epoch = 0): Promise<void> {
    await this.#receive();
    const end = this.#end!;
    const { seal } = this.#connect!;
    if (seal) {
      this.#seal = new SessionSeal(seal, { side: "client", fail: () => {} });
      this.#channel = this.#seal.channel("messages");
    }
    await bringUp(end.queuePair, this.#port, this.#order(), () => this.#postReceives());
    this.#pump();
    if (epoch === 0) await this.#take(this.#exchange.connected());
    else await this.sendBody("READY", { epoch });
  }

  /** Takes the server's READY; then the first message is due. */
  async ready(): Promise<void> {
    await this.#receive();
  }

  /** Everything that is before the first message. */
  async reachFirstMessage(): Promise<void> {
    await this.enter();
    await this.offerQueuePair();
    await this.bringUp();
    await this.ready();
  }

  /** The whole exchange, without a lie. */
  async establish(): Promise<void> {
    await this.reachFirstMessage();
    this.sendFragment({ kind: MessageKind.PROOF, payload: this.#prove!.own });
    await this.message(MessageKind.PROOF);
  }

  /**
   * Puts a chunk into its window, sealed for a transfer where the session is.
   *
   * @param content its bytes; zeros unless told
   */
  fillBuffer(
    transfer: number,
    { buffer, length, offset }: { buffer: number; length: number; offset: number },
    content: Uint8Array = new Uint8Array(length),
  ): void {
    const { memory } = this.#end!;
    const at = WINDOW_BASE + buffer * WINDOW_BUFFER_BYTES;
    using plain = new Memory(length);
    plain.bytes.set(content);
    using channel = this.#seal?.channel("files", transfer);
    if (channel) channel.seal(plain, 0, length, memory, at, offset);
    else memory.bytes.set(content, at);
  }

  /** Bytes that a fragment's payload may have. */
  get payloadBytes(): number {
    return payloadBytes(this.#channel !== undefined);
  }

  /**
   * Sends a fragment; what is not said is as in a message of one fragment. It is sealed as it is,
   * unless it is larger than a record in a receive buffer can be.
   */
  sendFragment(fragment: Fragment): void {
    const { kind, last = true, credits = 0, id = 1, payload = new Uint8Array(0) } = fragment;
    const { total = payload.length, offset = 0, bytes = 16 + payload.length } = fragment;
    const { memory, region, sends, queuePair } = this.#end!;
    const slot = this.#sent++ % SLOTS;
    const at = SEND_BASE + slot * FRAGMENT_BYTES;
    const header = new DataView(this.#draft.bytes.buffer);
    header.setUint8(0, kind);
    header.setUint8(1, last ? 1 : 0);
    header.setUint16(2, credits);
    header.setUint32(4, id);
    header.setUint32(8, total);
    header.setUint32(12, offset);
    this.#draft.bytes.set(payload, 16);
    const channel = bytes > this.payloadBytes + 16 ? undefined : this.#channel;
    if (channel) channel.seal(this.#draft, 0, bytes, memory, at, 0);
    else memory.bytes.set(this.#draft.bytes, at);
    const length = channel ? bytes + RECORD_OVERHEAD : bytes;
    sends.prepare(slot, slot, Opcode.SEND, SendFlag.SIGNALED)
      .buffer(slot, region.address + at, length, region.lkey);
    queuePair.postSend(sends, slot);
  }

  /** Sends bytes as they are, sealed or not. */
  sendRaw(bytes: Uint8Array): void {
    const { memory, region, sends, queuePair } = this.#end!;
    const slot = this.#sent++ % SLOTS;
    const at = SEND_BASE + slot * FRAGMENT_BYTES;
    memory.bytes.set(bytes, at);
    sends.prepare(slot, slot, Opcode.SEND, SendFlag.SIGNALED)
      .buffer(slot, region.address + at, bytes.length, region.lkey);
    queuePair.postSend(sends, slot);
  }

  /** The record that it sent last. */
  get lastRecord(): Uint8Array {
    const at = SEND_BASE + ((this.#sent - 1) % SLOTS) * FRAGMENT_BYTES;
    return this.#end!.memory.bytes.slice(at, at + FRAGMENT_BYTES);
  }

  /** Resolves when of all that was sent no more than so many are not acknowledged. */
  async acknowledged(outstanding = 0): Promise<void> {
    while (this.#sent - this.#completed > outstanding) await this.#arrival.promise;
  }

  /** Posts no receive any more, whatever it grants. */
  withholdReceives(): void {
    this.#withholding = true;
  }

  /** WRITEs or READs some bytes of the server's memory. */
  reach(opcode: typeof Opcode.READ | typeof Opcode.WRITE, remote: RemoteBuffer, bytes = 64): void {
    const { region, sends, queuePair } = this.#end!;
    const slot = this.#sent++ % SLOTS;
    sends.prepare(slot, slot, opcode, SendFlag.SIGNALED)
      .buffer(slot, region.address + SEND_BASE, bytes, region.lkey)
      .remote(slot, remote.address, remote.rkey);
    queuePair.postSend(sends, slot);
  }

  /**
   * Adds one to eight bytes of the server's memory, or puts `swapWith` where they are `operand`;
   * resolves when it is done.
   *
   * @throws WorkCompletionError when the server's device refuses
   */
  async changeAtomically(
    opcode: typeof Opcode.FETCH_AND_ADD | typeof Opcode.COMPARE_AND_SWAP,
    { address, rkey }: RemoteBuffer,
    operand: bigint,
    swapWith = 0n,
  ): Promise<void> {
    const { region, sends, queuePair } = this.#end!;
    const slot = this.#sent++ % SLOTS;
    sends.prepare(slot, slot, opcode, SendFlag.SIGNALED)
      .buffer(slot, region.address + SEND_BASE, 8, region.lkey)
      .atomic(slot, address, rkey, operand, swapWith);
    queuePair.postSend(sends, slot);
    await this.#done();
  }

  /**
   * WRITEs these bytes to the server's memory, or READs as many into them; resolves when it is done.
   *
   * @throws WorkCompletionError when the server's device refuses
   */
  async access(
    opcode: typeof Opcode.READ | typeof Opcode.WRITE,
    remote: RemoteBuffer,
    bytes: Uint8Array,
  ): Promise<void> {
    const { memory } = this.#end!;
    if (opcode === Opcode.WRITE) memory.bytes.set(bytes, SEND_BASE);
    this.reach(opcode, remote, bytes.length);
    await this.#done();
    bytes.set(memory.bytes.subarray(SEND_BASE, SEND_BASE + bytes.length));
  }

  /** Resolves when all that it asked for is done; rejects when something was refused. */
  async #done(): Promise<void> {
    const failed = this.failure.then((error) => Promise.reject(error));
    await Promise.race([this.acknowledged(), failed]);
  }

  /** Waits for a fragment of a message of this kind. */
  async message(kind: number): Promise<Arrival> {
    for (;;) {
      const index = this.#arrivals.findIndex((arrival) => arrival.kind === kind);
      if (index >= 0) return this.#arrivals.splice(index, 1)[0]!;
      await this.#arrival.promise;
    }
  }

  /** The numbers that both sides have agreed on. */
  get numbers(): { readonly local: QueuePairNumbers; readonly remote: QueuePairNumbers } {
    return this.#connect!;
  }

  /** PSN of its next packet. */
  get nextPsn(): number {
    return this.#end!.queuePair.query().sqPsn;
  }

  /** Resolves to the error of the first work request of its own that failed. */
  get failure(): Promise<RdmaError> {
    return this.#failure.promise;
  }

  /** Its buffers, as a file request describes them. */
  get window() {
    return {
      address: String(this.#end!.region.address + WINDOW_BASE),
      buffers: WINDOW_BUFFERS,
      bufferBytes: WINDOW_BUFFER_BYTES,
    };
  }

  /** Opens all of its memory. */
  get rkey(): number {
    return this.#end!.region.rkey;
  }

  /** A request for this file, with grants for all of its buffers. */
  getRequest(path: string) {
    const { window, rkey } = this;
    const rkeys = Array<number>(WINDOW_BUFFERS).fill(rkey);
    return { operation: "get", transfer: 1, path, window, rkeys };
  }

  async request(service: Service, body: unknown): Promise<void> {
    await this.send({ name: "REQUEST", body: { id: ++this.#lastRequest, service, body } });
  }

  /** The next REPLY. */
  reply(): Promise<Message & { name: "REPLY" }> {
    return this.hear("REPLY");
  }

  /** The next message of this name; heartbeats are answered meanwhile, others passed by. */
  async hear<N extends FrameName>(name: N): Promise<Message & { name: N }> {
    for (;;) {
      const message = decode(await this.#nextFrame());
      if (message.name === name) return message as Message & { name: N };
      if (message.name === "PING") await this.send({ name: "PONG", body: message.body });
    }
  }

  /** What the server says last, before it hangs up; `undefined` when it says nothing. */
  async farewell(): Promise<Message | undefined> {
    let last: Message | undefined;
    try {
      for (;;) last = decode(await this.#nextFrame());
    } catch {
      return last;
    }
  }

  /** Gives the queue pair back, and keeps the connection. */
  dropQueuePair(): void {
    this.#end?.[Symbol.dispose]();
    this.#end = undefined;
  }

  /** Ends the connection as TLS wants it, without a BYE. The queue pair stays: its end would be another reason. */
  hangUp(): void {
    closeQuietly(this.#tls);
  }

  /** Vanishes: no BYE, no end of TLS. The queue pair stays, as above. */
  vanish(): void {
    closeAtOnce(this.#tls);
  }

  [Symbol.dispose](): void {
    this.dropQueuePair();
    this.#channel?.[Symbol.dispose]();
    this.#seal?.[Symbol.dispose]();
    this.#draft[Symbol.dispose]();
    this.#opened[Symbol.dispose]();
    this.vanish();
  }

  #order(): Connect {
    const connect = this.#connect!;
    if (this.#detour === undefined) return connect;
    return { ...connect, remote: { ...connect.remote, udpPort: this.#detour } };
  }

  async #receive(): Promise<void> {
    await this.#take(this.#exchange.receive(await this.#nextFrame()));
  }

  async #take(steps: Step[]): Promise<void> {
    for (const step of steps) {
      if (step.do === "send") await this.writeBytes(step.frame.bytes);
      else if (step.do === "connect") this.#connect = step;
      else if (step.do === "prove") this.#prove = step;
    }
  }

  async #nextFrame(): Promise<Frame> {
    const chunk = new Uint8Array(16384);
    for (;;) {
      const frame = this.#frames.shift();
      if (frame) return frame;
      const count = await this.#tls.read(chunk);
      if (count === null) throw new Error("the server hung up");
      this.#frames.push(...this.#decoder.push(chunk.subarray(0, count)));
    }
  }

  #postReceives(): void {
    const { region, receives, queuePair } = this.#end!;
    for (let slot = 0; slot < SLOTS; slot++) {
      receives.prepare(slot, SLOTS + slot)
        .buffer(slot, region.address + slot * FRAGMENT_BYTES, FRAGMENT_BYTES, region.lkey);
    }
    queuePair.postReceive(receives, 0, SLOTS);
  }

  #opening(slot: number, byteLength: number): Arrival {
    const { memory } = this.#end!;
    const at = slot * FRAGMENT_BYTES;
    const length = byteLength - RECORD_OVERHEAD;
    this.#channel?.open(memory, at, length, this.#opened, 0, 0);
    const header = this.#channel
      ? new DataView(this.#opened.bytes.buffer)
      : new DataView(memory.bytes.buffer, at);
    return { kind: header.getUint8(0), id: header.getUint32(4) };
  }

  /** Notes what comes; a receive is posted again at once. */
  async #pump(): Promise<void> {
    const end = this.#end!;
    const { queue, receives, queuePair } = end;
    for (let count = await queue.next(); count > 0; count = await queue.next()) {
      // It may have ended between the completion and now.
      if (this.#end !== end) return;
      for (let index = 0; index < count; index++) {
        if (!queue.completions.succeeded(index)) {
          return this.#failure.resolve(queue.completions.error(index));
        }
        const id = queue.completions.wrId(index);
        if (id < SLOTS) this.#completed += 1;
        else {
          this.#arrivals.push(this.#opening(id - SLOTS, queue.completions.byteLength(index)));
          if (!this.#withholding) queuePair.postReceive(receives, id - SLOTS);
        }
      }
      this.#arrival.resolve();
      this.#arrival = Promise.withResolvers<void>();
    }
  }
}
