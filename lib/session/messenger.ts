import { Memory } from "../../ffi/memory.ts";
import { ProtocolError, VerbsealError } from "../errors.ts";
import type { MemoryRegion } from "../rdma/memory_region.ts";
import type { ProtectionDomain } from "../rdma/protection_domain.ts";
import type { QueuePair } from "../rdma/queue_pair.ts";
import { Opcode, ReceiveWorkRequests, SendFlag, SendWorkRequests } from "../rdma/work_request.ts";
import { RECORD_OVERHEAD, type RecordSeal } from "../security/seal.ts";
import type { TokenBucket } from "./token_bucket.ts";
import { WorkRequestId } from "./work_request_id.ts";

/** Bytes of a receive buffer: a fragment's header and its part of the message, sealed or not. */
export const FRAGMENT_BYTES = 8192;

/** u8 kind, u8 last, u16 credits returned, u32 id, u32 bytes of the message, u32 offset; big-endian. */
const HEADER_BYTES = 16;

/** Bytes of a message that a fragment takes at most. */
export function payloadBytes(sealed: boolean): number {
  return FRAGMENT_BYTES - HEADER_BYTES - (sealed ? RECORD_OVERHEAD : 0);
}

/** Send work requests that messages have outstanding at most. */
export const MESSAGE_SENDS = 16;

/** Receive buffers of a session, and so the credits of its peer. */
export const RECEIVES = 32;

/** Bytes of registered memory that a session's messages take. */
export const MESSAGE_BYTES = (RECEIVES + MESSAGE_SENDS) * FRAGMENT_BYTES;

/** Every fourth send is signalled, and its completion frees the buffers of all four. */
const SIGNAL_EVERY = 4;

/** Kind of the messages that only return credits. The others belong to the session and its services. */
const CREDIT_KIND = 0;

/** Bytes that a waiting message counts for besides its body, as an empty one takes memory too. */
const WAITING_BYTES = 256;

/**
 * Checks a message that is to be sent.
 *
 * @throws VerbsealError when it is longer than was agreed
 */
export function checkMessageLength(length: number, most: number): void {
  if (length <= most) return;
  throw new VerbsealError(
    "message_length",
    `a message of ${length} bytes is more than the ${most} agreed`,
    "send a shorter one, or start the server with a larger --max-message",
  );
}

export interface MessengerOptions {
  readonly protectionDomain: ProtectionDomain;
  readonly queuePair: QueuePair;
  /** Receive buffers, all posted from the start: the credits that the peer begins with. */
  readonly receives: number;
  /** Bytes of a message at most, both ways. */
  readonly messageBytes: number;
  /**
   * Bytes of messages waiting for credits, above which the peer's are withheld: one that takes
   * no answers gets no room for further questions. Only the answering side may set it, or both
   * could wait for each other.
   */
  readonly maxQueuedBytes: number;
  /** Fragments that the peer may send; when they are too many, its credits are withheld. */
  readonly rate?: TokenBucket | undefined;
  /** The peer was too fast: {@linkcode Messenger.resume} is due in so many milliseconds. */
  readonly onTooFast?: ((milliseconds: number) => void) | undefined;
  /** Gets each message. The body is valid only until it returns. */
  readonly onMessage: (kind: number, id: number, body: Uint8Array) => void;
}

/** Memory in fragments. */
interface Buffers {
  readonly memory: Memory;
  readonly view: DataView;
}

/** Where fragments are that are sealed before they are sent, or were opened: out of the device's reach. */
interface Sealing {
  readonly seal: RecordSeal;
  readonly draft: Buffers;
  readonly opened: Buffers;
}

interface Outgoing {
  readonly kind: number;
  readonly id: number;
  readonly body: Uint8Array;
  sent: number;
}

interface Incoming {
  readonly kind: number;
  readonly id: number;
  readonly body: Uint8Array;
  received: number;
}

/**
 * Messages over SEND and RECEIVE, in fragments of a receive buffer's size. A fragment is sent only
 * for a credit, that is a receive that the peer has posted, so no receiver is ever caught without
 * a buffer. The last credit is kept for returning credits, so the two sides cannot block each other.
 *
 * A peer that is to wait gets no credits back. Its receives are posted all the same: a fragment sent
 * without a credit, which no honest peer does, arrives and ends the session, where without a receive
 * the sender would be asked for it again and again.
 */
export class Messenger implements Disposable {
  readonly #resources: DisposableStack;
  readonly #options: MessengerOptions;
  readonly #received: Buffers & { readonly region: MemoryRegion };
  readonly #sent: Buffers & { readonly region: MemoryRegion };
  #sealing: Sealing | undefined;
  readonly #receives: ReceiveWorkRequests;
  readonly #sends = new SendWorkRequests(MESSAGE_SENDS);
  readonly #queue: Outgoing[] = [];
  #queuedBytes = 0;
  #incoming: Incoming | undefined;
  #credits = 0;
  #maxCredits = 0;
  /** What the peer may send. With the next two it makes up all receives. */
  #peerCredits: number;
  #creditsToReturn = 0;
  /** To be returned later, as the peer has to wait. */
  #withheld = 0;
  #resuming = false;
  #nextSlot = 0;
  #freeSlots = MESSAGE_SENDS;
  #unsignalled = 0;

  constructor(options: MessengerOptions) {
    this.#options = options;
    this.#peerCredits = options.receives;
    this.#receives = new ReceiveWorkRequests(options.receives);
    using building = new DisposableStack();
    const buffers = (count: number, access: "LOCAL_WRITE"[]) => {
      const memory = building.use(new Memory(count * FRAGMENT_BYTES));
      const region = building.use(options.protectionDomain.registerMemory(memory, access));
      return { region, memory, view: new DataView(memory.bytes.buffer) };
    };
    this.#received = buffers(options.receives, ["LOCAL_WRITE"]);
    this.#sent = buffers(MESSAGE_SENDS, []);
    this.#resources = building.move();
  }

  /** Posts all receives; the queue pair must be in INIT or later. */
  postReceives(): void {
    const { address, lkey } = this.#received.region;
    for (let slot = 0; slot < this.#options.receives; slot++) {
      this.#receives.prepare(slot, WorkRequestId.receive(slot))
        .buffer(slot, address + slot * FRAGMENT_BYTES, FRAGMENT_BYTES, lkey);
    }
    this.#options.queuePair.postReceive(this.#receives, 0, this.#options.receives);
  }

  /** Seals all fragments from the first on, with the channel of messages; it stays the caller's. */
  sealWith(seal: RecordSeal): void {
    const buffer = () => {
      const memory = this.#resources.use(new Memory(FRAGMENT_BYTES));
      return { memory, view: new DataView(memory.bytes.buffer) };
    };
    this.#sealing = { seal, draft: buffer(), opened: buffer() };
  }

  /** The peer has posted this many receives: sending may begin. */
  grant(credits: number): void {
    this.#credits = credits;
    this.#maxCredits = credits;
    this.#flush();
  }

  /**
   * Sends a message: what there are credits and buffers for at once, the rest as they come back.
   * The body may be changed when it returns.
   *
   * @param kind 1 to 255
   * @param id 32 bits
   * @throws VerbsealError when it is too long, VerbsError when the queue pair does not take it
   */
  send(kind: number, id: number, body: Uint8Array): void {
    checkMessageLength(body.length, this.#options.messageBytes);
    const message: Outgoing = { kind, id, body, sent: 0 };
    if (this.#queue.length === 0 && this.#sendFragments(message)) return;
    this.#queue.push({ ...message, body: body.slice() });
    this.#queuedBytes += body.length + WAITING_BYTES;
  }

  /**
   * Takes a receive's completion.
   *
   * @throws ProtocolError when the peer's fragments do not make up messages, or it had no credit
   * @throws IntegrityError when this one is not what the peer sealed
   */
  receiveCompleted(slot: number, byteLength: number): void {
    const at = this.#sealing ? 0 : slot * FRAGMENT_BYTES;
    const length = this.#sealing ? this.#open(this.#sealing, slot, byteLength) : byteLength;
    const { view, memory } = this.#sealing?.opened ?? this.#received;
    if (length < HEADER_BYTES) throw new ProtocolError("fragment", `fragment of ${length} bytes`);
    const credits = view.getUint16(at + 2);
    const kind = view.getUint8(at);
    this.#account(kind, credits);
    if (kind !== CREDIT_KIND) {
      this.#assemble(kind, view, at, memory.bytes.subarray(at + HEADER_BYTES, at + length));
    }
    this.#options.queuePair.postReceive(this.#receives, slot);
    // What waits here waits for the very credits that messages of credits bring.
    if (kind === CREDIT_KIND) this.#creditsToReturn += 1;
    else this.#withheld += 1;
    this.#flush();
  }

  /** Takes the completion of a signalled send. */
  sendCompleted(): void {
    this.#freeSlots += SIGNAL_EVERY;
    this.#flush();
  }

  /** Lets the peer go on that was too fast, if it has waited for long enough. */
  resume(): void {
    this.#resuming = false;
    this.#flush();
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }

  /** An honest peer sends only for a credit, and messages of credits only to return some. */
  #account(kind: number, credits: number): void {
    this.#options.rate?.spend();
    this.#peerCredits -= 1;
    if (this.#peerCredits < 0) {
      throw new ProtocolError("credits", "a fragment for which the peer had no credit");
    }
    this.#credits += credits;
    if (this.#credits > this.#maxCredits || (kind === CREDIT_KIND && credits === 0)) {
      throw new ProtocolError("credits", `${credits} credits, ${this.#maxCredits} in all`);
    }
  }

  /** A completed receive is the last that the peer could do to its buffer. */
  #open({ seal, opened }: Sealing, slot: number, byteLength: number): number {
    const length = byteLength - RECORD_OVERHEAD;
    seal.open(this.#received.memory, slot * FRAGMENT_BYTES, length, opened.memory, 0, 0);
    return length;
  }

  #assemble(kind: number, view: DataView, at: number, payload: Uint8Array): void {
    const last = view.getUint8(at + 1) === 1;
    const id = view.getUint32(at + 4);
    const total = view.getUint32(at + 8);
    const offset = view.getUint32(at + 12);
    if (total > this.#options.messageBytes) {
      throw new ProtocolError(
        "message_length",
        `message of ${total} bytes, more than ${this.#options.messageBytes}`,
      );
    }
    const incoming = this.#incoming;
    const follows = incoming === undefined
      ? offset === 0
      : incoming.kind === kind && incoming.id === id && incoming.body.length === total &&
        incoming.received === offset;
    const end = offset + payload.length;
    if (!follows || end > total || last !== (end === total) || (!last && payload.length === 0)) {
      throw new ProtocolError("fragment", `fragment ${offset} to ${end} of ${total} out of turn`);
    }
    if (last && incoming === undefined) return this.#options.onMessage(kind, id, payload);
    const message = incoming ?? { kind, id, body: new Uint8Array(total), received: 0 };
    message.body.set(payload, offset);
    message.received = end;
    this.#incoming = last ? undefined : message;
    if (last) this.#options.onMessage(kind, id, message.body);
  }

  /** The peer has to wait: for us to be rid of answers, or as it was too fast. */
  #mustWait(): boolean {
    const { maxQueuedBytes, rate, onTooFast } = this.#options;
    if (this.#queuedBytes > maxQueuedBytes) return true;
    const milliseconds = rate?.wait ?? 0;
    if (milliseconds === 0) return false;
    if (!this.#resuming) onTooFast?.(milliseconds);
    this.#resuming = true;
    return true;
  }

  #flush(): void {
    while (this.#queue.length > 0) {
      const message = this.#queue[0]!;
      if (!this.#sendFragments(message)) break;
      this.#queue.shift();
      this.#queuedBytes -= message.body.length + WAITING_BYTES;
    }
    if (this.#withheld > 0 && !this.#mustWait()) {
      this.#creditsToReturn += this.#withheld;
      this.#withheld = 0;
    }
    if (this.#creditsToReturn >= this.#options.receives / 2) this.#returnCredits();
  }

  #returnCredits(): void {
    if (this.#credits < 1 || this.#freeSlots < 1) return;
    this.#prepare(this.#nextSlot, CREDIT_KIND, 0, nothing, 0, 0);
    this.#post(1);
  }

  /** Sends as much of a message as possible, in as few calls as possible; true when it is complete. */
  #sendFragments(message: Outgoing): boolean {
    const { kind, id, body } = message;
    const most = payloadBytes(this.#sealing !== undefined);
    do {
      const count = Math.min(
        Math.max(1, Math.ceil((body.length - message.sent) / most)),
        this.#credits - 1,
        this.#freeSlots,
        MESSAGE_SENDS - this.#nextSlot,
      );
      if (count < 1) return false;
      for (let index = 0; index < count; index++) {
        const end = Math.min(body.length, message.sent + most);
        this.#prepare(this.#nextSlot + index, kind, id, body, message.sent, end);
        message.sent = end;
      }
      this.#post(count);
    } while (message.sent < body.length);
    return true;
  }

  #prepare(
    slot: number,
    kind: number,
    id: number,
    body: Uint8Array,
    start: number,
    end: number,
  ): void {
    const at = this.#sealing ? 0 : slot * FRAGMENT_BYTES;
    const { view, memory } = this.#sealing?.draft ?? this.#sent;
    view.setUint8(at, kind);
    view.setUint8(at + 1, end === body.length ? 1 : 0);
    view.setUint16(at + 2, this.#creditsToReturn);
    this.#peerCredits += this.#creditsToReturn;
    view.setUint32(at + 4, id);
    view.setUint32(at + 8, body.length);
    view.setUint32(at + 12, start);
    const payload = end - start === body.length ? body : body.subarray(start, end);
    memory.bytes.set(payload, at + HEADER_BYTES);
    this.#creditsToReturn = 0;
    this.#prepareSend(slot, HEADER_BYTES + payload.length);
  }

  /** Seals the fragment into its slot first, where that is asked for. */
  #prepareSend(slot: number, length: number): void {
    const at = slot * FRAGMENT_BYTES;
    const { memory, region } = this.#sent;
    this.#sealing?.seal.seal(this.#sealing.draft.memory, 0, length, memory, at, 0);
    const bytes = this.#sealing ? length + RECORD_OVERHEAD : length;
    this.#unsignalled = (this.#unsignalled + 1) % SIGNAL_EVERY;
    const flags = this.#unsignalled === 0 ? SendFlag.SIGNALED : SendFlag.NONE;
    this.#sends.prepare(slot, WorkRequestId.send(slot), Opcode.SEND, flags)
      .buffer(slot, region.address + at, bytes, region.lkey);
  }

  #post(count: number): void {
    this.#options.queuePair.postSend(this.#sends, this.#nextSlot, count);
    this.#nextSlot = (this.#nextSlot + count) % MESSAGE_SENDS;
    this.#freeSlots -= count;
    this.#credits -= count;
  }
}

const nothing = new Uint8Array(0);
