import { V } from "../../../ffi/libibverbs.ts";
import { RdmaError } from "../../errors.ts";
import { DisposedError } from "../disposed_error.ts";
import { accessFlags } from "../memory_region.ts";
import {
  checkTransition,
  type QueuePair,
  type QueuePairAttributes,
  type QueuePairOptions,
  type QueuePairState,
  type QueuePairStatus,
  TransitionError,
} from "../queue_pair.ts";
import type { ReceiveWorkRequests, SendWorkRequests } from "../work_request.ts";
import { Completer, completionOpcodes } from "./completer.ts";
import { RoceCompletionQueue } from "./completion_queue.ts";
import type { Connection } from "./connection.ts";
import { Counter } from "./counters.ts";
import { addressOfGid, Endpoint, ROCE_UDP_PORT } from "./endpoint.ts";
import { maskBth, type Packet } from "./headers.ts";
import { IcrcPrefix } from "./icrc.ts";
import { ICRC_BYTES, Trait } from "./opcode.ts";
import type { Peer, PortQueuePair, RocePort } from "./port.ts";
import { psnDistance } from "./psn.ts";
import { ReceiveQueue } from "./receive_queue.ts";
import { Requester } from "./requester.ts";
import { Responder } from "./responder.ts";
import { SendQueue } from "./send_queue.ts";
import type { ReceiveBatch } from "./wire.ts";

/** Milliseconds of one unit of the timeout: 4.096 µs (IBTA volume 1, section 9.7.6.1.3). */
const TIMEOUT_UNIT = 0.004096;

/** READs and atomics of a queue pair under way at most, in either direction. */
export const MAX_RD_ATOMIC = 128;

/** The three parts of a connected queue pair. */
interface Parts {
  readonly connection: Connection;
  readonly responder: Responder;
  readonly requester: Requester;
  readonly completer: Completer;
}

/** Attributes that the transition to RTR needs, known to be there since {@linkcode checkTransition}. */
type Connected = Required<
  Pick<
    QueuePairAttributes,
    "addressVector" | "pathMtu" | "destQpn" | "rqPsn" | "maxDestRdAtomic" | "minRnrTimer" | "access"
  >
>;

/** Attributes that the transition to RTS needs. */
type Sending = Required<
  Pick<QueuePairAttributes, "sqPsn" | "timeout" | "retryCount" | "rnrRetry" | "maxRdAtomic">
>;

/** A reliable connected queue pair of the embedded provider. */
export class RoceQueuePair implements QueuePair, PortQueuePair {
  readonly qpn: number;
  isReady = false;
  readonly #port: RocePort;
  readonly #protectionDomain: object;
  readonly #sendCompletions: RoceCompletionQueue;
  readonly #receiveCompletions: RoceCompletionQueue;
  readonly #sends: SendQueue;
  readonly #receives: ReceiveQueue;
  readonly #onDisposed: () => void;
  #attributes: QueuePairAttributes = {};
  #state: QueuePairState = "RESET";
  #parts: Parts | undefined;
  /** The peer, as its packets name it. */
  #peerWords = new Uint32Array(4);
  #peer: Endpoint | undefined;
  #icrc: IcrcPrefix | undefined;
  #icrcPort = 0;
  #inFlight = 0;
  #disposed = false;

  constructor(
    port: RocePort,
    protectionDomain: object,
    options: QueuePairOptions,
    onDisposed: () => void,
  ) {
    const { sendQueue, receiveQueue } = options;
    if (
      !(sendQueue instanceof RoceCompletionQueue && receiveQueue instanceof RoceCompletionQueue)
    ) {
      throw new TypeError("a completion queue of another provider");
    }
    this.#port = port;
    this.#protectionDomain = protectionDomain;
    this.#sendCompletions = sendQueue;
    this.#receiveCompletions = receiveQueue;
    this.#onDisposed = onDisposed;
    this.#sends = new SendQueue(options.maxSend, options.maxSendSge ?? 1, options.maxInline ?? 0);
    this.#receives = new ReceiveQueue(options.maxReceive, options.maxReceiveSge ?? 1);
    this.qpn = port.add(this);
  }

  get state(): QueuePairState {
    return this.#state;
  }

  /** The earliest time at which something is to be done. Milliseconds. */
  get deadline(): number {
    return this.#parts?.completer.deadline ?? Infinity;
  }

  modify(attributes: QueuePairAttributes & { readonly state: QueuePairState }): void {
    this.#assertOpen();
    const { state: to } = attributes;
    checkTransition(this.#state, attributes);
    this.#checkValues(attributes);
    const merged = { ...this.#attributes, ...attributes };
    if (to === "ERR") return this.#fail();
    if (to === "RESET") this.#reset();
    if (to === "RTR") this.#beginReceiving(merged as Connected);
    if (to === "RTS" && this.#state === "RTR") this.#beginSending(merged as Sending);
    if (to === "RTS" && this.#parts) {
      this.#parts.connection.access = accessFlags(merged.access ?? []);
      this.#parts.connection.minRnrTimer = merged.minRnrTimer!;
    }
    this.#attributes = to === "RESET" ? {} : merged;
    this.#state = to;
  }

  query(): QueuePairStatus {
    this.#assertOpen();
    return {
      state: this.#state,
      sqPsn: this.#sends.nextPsn,
      rqPsn: this.#parts?.responder.expectedPsn ?? 0,
      destQpn: this.#attributes.destQpn ?? 0,
    };
  }

  postSend(requests: SendWorkRequests, first = 0, count = 1): void {
    this.#assertOpen();
    if (this.#state !== "RTS" && this.#state !== "ERR") {
      throw new RdmaError(
        "queue_pair_state",
        `a queue pair in ${this.#state} takes no sends`,
        "bring it to RTS first",
      );
    }
    try {
      for (let index = first; index < first + count; index++) this.#sends.post(requests, index);
    } finally {
      // Those before one that is refused are posted (ibv_post_send(3)).
      if (this.#state === "ERR") this.#flushSends();
      else this.#port.transmitNow(this);
    }
  }

  postReceive(requests: ReceiveWorkRequests, first = 0, count = 1): void {
    this.#assertOpen();
    if (this.#state === "RESET") {
      throw new RdmaError(
        "queue_pair_state",
        "a queue pair in RESET takes no receives",
        "bring it to INIT first",
      );
    }
    for (let index = first; index < first + count; index++) this.#receives.post(requests, index);
    if (this.#state === "ERR") this.#flushReceives();
  }

  /** Takes a packet that the port decoded: `length` bytes at `at` of message `message`, as segment `segment`. */
  receive(
    packet: Packet,
    batch: ReceiveBatch,
    message: number,
    segment: number,
    at: number,
    length: number,
  ): void {
    const { counters } = this.#port;
    const parts = this.#parts;
    if (!parts || this.#state === "ERR" || this.#disposed) {
      return counters.count(Counter.UNKNOWN_QUEUE_PAIR);
    }
    if (!this.#isFromPeer(batch.sources, message)) return counters.count(Counter.WRONG_SOURCE);
    if (!this.#icrcMatches(batch, batch.sourcePorts[message]!, segment, at, length)) {
      return counters.count(Counter.ICRC_ERRORS);
    }
    // The lower 15 bits name the partition (IBTA volume 1, section 10.9.1.1).
    if ((packet.pkey & 0x7fff) !== 0x7fff) return counters.count(Counter.PKEY_VIOLATIONS);
    if (packet.traits & Trait.REQUEST) parts.responder.receive(packet, batch.bytes);
    else if (this.#state === "RTS") parts.completer.receive(packet, batch.bytes);
  }

  transmit(budget: number): number {
    const parts = this.#parts;
    if (!parts || this.#state === "ERR") return 0;
    const { responder, requester, completer } = parts;
    if (this.#state !== "RTS") return responder.transmit(budget);
    // Who asks for much must not keep us from asking.
    const answered = responder.transmit(budget / 2);
    const sent = requester.transmit(budget - answered);
    if (sent > 0) completer.startTimer();
    return answered + sent + responder.transmit(budget - answered - sent);
  }

  expire(): void {
    this.#parts?.completer.expire();
  }

  usesQueue(queue: RoceCompletionQueue): boolean {
    return queue === this.#sendCompletions || queue === this.#receiveCompletions;
  }

  fail(): void {
    this.#fail();
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#disconnect();
    this.#port.remove(this);
    this.#onDisposed();
  }

  #assertOpen(): void {
    if (this.#disposed) throw new DisposedError(this.constructor.name);
  }

  /** @throws TransitionError for values that only the device knows to be wrong: it has one port, one GID, one partition */
  #checkValues(attributes: QueuePairAttributes & { readonly state: QueuePairState }): void {
    const { port = 1, pkeyIndex = 0, addressVector } = attributes;
    const { maxRdAtomic = 0, maxDestRdAtomic = 0 } = attributes;
    const { local } = this.#port;
    const reasons = [
      ...(port === 1 ? [] : [`port is ${port}, there is port 1 only`]),
      ...(pkeyIndex === 0 ? [] : [`pkeyIndex is ${pkeyIndex}, there is index 0 only`]),
      ...(Math.max(maxRdAtomic, maxDestRdAtomic) <= MAX_RD_ATOMIC
        ? []
        : [`maxRdAtomic and maxDestRdAtomic are ${MAX_RD_ATOMIC} at most`]),
    ];
    if (addressVector) {
      const { dgid, sgidIndex } = addressVector;
      if (sgidIndex !== 0) reasons.push(`sgidIndex is ${sgidIndex}, there is index 0 only`);
      if (addressOfGid(dgid).length !== local.address.length) {
        reasons.push(`dgid ${dgid} is not of the IP version of ${local}`);
      }
    }
    if (reasons.length === 0) return;
    throw new TransitionError(this.#state, attributes.state, [], [], reasons.join("; "));
  }

  #beginReceiving(attributes: Connected): void {
    const { addressVector, rqPsn } = attributes;
    const address = addressOfGid(addressVector.dgid);
    this.#peer = new Endpoint(address, addressVector.udpPort ?? ROCE_UDP_PORT);
    this.#peerWords = this.#peer.words;
    this.#icrc = undefined;
    const connection = this.#connection(attributes, this.#port.reach(this.#peer));
    const responder = new Responder(connection, this.#receives, rqPsn);
    const requester = new Requester(connection, this.#sends, (error) => {
      this.#parts!.completer.failHead(error);
    });
    const completer = new Completer(connection, this.#sends, requester);
    this.#parts = { connection, responder, requester, completer };
  }

  #beginSending({ sqPsn, timeout, retryCount, rnrRetry, maxRdAtomic }: Sending): void {
    const { connection, completer } = this.#parts!;
    connection.timeout = timeout === 0 ? Infinity : TIMEOUT_UNIT * 2 ** timeout;
    connection.retryCount = retryCount;
    connection.rnrRetry = rnrRetry;
    connection.maxRdAtomic = maxRdAtomic;
    this.#sends.reset(sqPsn);
    completer.resetRetries();
  }

  #connection(
    { pathMtu, destQpn, access, maxDestRdAtomic, minRnrTimer }: Connected,
    { destination, window }: Peer,
  ): Connection {
    const { qpn } = this;
    return {
      port: this.#port,
      protectionDomain: this.#protectionDomain,
      destination,
      window,
      destQpn,
      mtu: pathMtu,
      access: accessFlags(access),
      maxDestRdAtomic,
      minRnrTimer,
      maxRdAtomic: 0,
      timeout: Infinity,
      retryCount: 0,
      rnrRetry: 0,
      awaitWindow: () => window.await(this),
      settleWindow: () => this.#settleWindow(),
      schedule: () => this.#port.schedule(this),
      arm: (deadline) => this.#port.arm(this, deadline),
      fail: () => this.#fail(),
      failForPeer: (name) => {
        this.#fail();
        this.#port.report({ name, qpn, fatal: true });
      },
      received: (wrId, status, byteLength, withWrite, immediate) =>
        this.#receiveCompletions.push(
          wrId,
          status,
          withWrite ? V.IBV_WC_RECV_RDMA_WITH_IMM : V.IBV_WC_RECV,
          byteLength,
          qpn,
          immediate === undefined ? 0 : V.IBV_WC_WITH_IMM,
          immediate,
        ),
      sent: (wrId, status, opcode, byteLength) =>
        this.#sendCompletions.push(wrId, status, opcode, byteLength, qpn),
    };
  }

  #isFromPeer(sources: Uint32Array, message: number): boolean {
    const peer = this.#peerWords;
    const at = 4 * message;
    return sources[at] === peer[0] && sources[at + 1] === peer[1] &&
      sources[at + 2] === peer[2] && sources[at + 3] === peer[3];
  }

  #icrcMatches(
    batch: ReceiveBatch,
    sourcePort: number,
    segment: number,
    at: number,
    length: number,
  ): boolean {
    if (!this.#icrc || this.#icrcPort !== sourcePort) {
      this.#icrcPort = sourcePort;
      this.#icrc = new IcrcPrefix(
        { address: this.#peer!.address, port: sourcePort },
        this.#port.local,
      );
    }
    const end = at + length - ICRC_BYTES;
    maskBth(batch.view, at);
    const received = batch.view.getUint32(end, true);
    return this.#icrc.matches(batch.bytes.subarray(at, end), segment, received);
  }

  #settleWindow(): void {
    const { connection, requester } = this.#parts!;
    const { acknowledgedPsn, nextPsn } = this.#sends;
    // What a silent peer is asked with is not counted: no others wait for it.
    const inFlight = requester.isProbing
      ? 0
      : psnDistance(acknowledgedPsn, nextPsn) * connection.mtu;
    const change = inFlight - this.#inFlight;
    this.#inFlight = inFlight;
    connection.window.adjust(change);
  }

  #fail(): void {
    if (this.#state === "ERR") return;
    this.#state = "ERR";
    this.#flushSends();
    this.#flushReceives();
    this.#leaveWindow();
    this.#port.arm(this, Infinity);
  }

  #flushSends(): void {
    const queue = this.#sends;
    for (; queue.head < queue.tail; queue.head++) {
      const { wrId, opcode } = queue.at(queue.head);
      const completion = completionOpcodes[opcode];
      this.#sendCompletions.push(wrId, "IBV_WC_WR_FLUSH_ERR", completion, 0, this.qpn);
    }
    queue.reset(queue.sentPsn);
  }

  #flushReceives(): void {
    for (let request = this.#receives.next; request; request = this.#receives.next) {
      this.#receives.consume();
      this.#receiveCompletions.push(
        request.wrId,
        "IBV_WC_WR_FLUSH_ERR",
        V.IBV_WC_RECV,
        0,
        this.qpn,
      );
    }
  }

  #leaveWindow(): void {
    const window = this.#parts?.connection.window;
    window?.forget(this);
    window?.adjust(-this.#inFlight);
    this.#inFlight = 0;
  }

  #reset(): void {
    this.#disconnect();
    this.#sends.reset(0);
    this.#receives.reset();
  }

  #disconnect(): void {
    if (!this.#parts) return;
    this.#leaveWindow();
    this.#port.arm(this, Infinity);
    this.#port.leave(this.#parts.connection.destination);
    this.#parts = undefined;
  }
}
