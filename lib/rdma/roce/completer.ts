import { V, type WcStatusName } from "../../../ffi/libibverbs.ts";
import { Opcode, SendFlag } from "../work_request.ts";
import type { Connection } from "./connection.ts";
import { Counter } from "./counters.ts";
import { NakCode, type Packet, RNR_TIMER_MS, Syndrome, SYNDROME_KIND_MASK } from "./headers.ts";
import { Trait } from "./opcode.ts";
import { psnDistance } from "./psn.ts";
import type { Requester } from "./requester.ts";
import type { SendQueue, SendRequest } from "./send_queue.ts";

/** RNR retries without end (IBTA volume 1, section 9.7.5.2.8). */
const FOR_EVER = 7;

/** Opcodes of work completions by that of the request. */
export const completionOpcodes: Readonly<Record<Opcode, number>> = {
  [Opcode.WRITE]: V.IBV_WC_RDMA_WRITE,
  [Opcode.WRITE_WITH_IMMEDIATE]: V.IBV_WC_RDMA_WRITE,
  [Opcode.SEND]: V.IBV_WC_SEND,
  [Opcode.SEND_WITH_IMMEDIATE]: V.IBV_WC_SEND,
  [Opcode.READ]: V.IBV_WC_RDMA_READ,
  [Opcode.COMPARE_AND_SWAP]: V.IBV_WC_COMP_SWAP,
  [Opcode.FETCH_AND_ADD]: V.IBV_WC_FETCH_ADD,
};

/** Takes acknowledgements and answers, completes requests, and decides what is sent again (IBTA volume 1, section 9.7.5 and 9.7.6). */
export class Completer {
  /** When the oldest packet has to be acknowledged by; Infinity when none is out. Milliseconds. */
  deadline = Infinity;
  readonly #connection: Connection;
  readonly #queue: SendQueue;
  readonly #requester: Requester;
  #retriesLeft = 0;
  #rnrRetriesLeft = 0;
  /** Answers are missing and were asked for again: what else comes meanwhile says nothing new. */
  #answersRequested = false;
  /** The peer had no receive: sending goes on when the deadline has passed. */
  #waitsForReceive = false;

  constructor(connection: Connection, queue: SendQueue, requester: Requester) {
    this.#connection = connection;
    this.#queue = queue;
    this.#requester = requester;
  }

  /** Begins to count retries anew: with RTS, and with all progress. */
  resetRetries(): void {
    this.#retriesLeft = this.#connection.retryCount;
    this.#rnrRetriesLeft = this.#connection.rnrRetry;
  }

  /** Starts to wait for an acknowledgement, unless it waits already. */
  startTimer(): void {
    if (this.deadline === Infinity) this.#restartTimer();
  }

  /** Takes an acknowledgement or an answer. `bytes` holds its payload. */
  receive(packet: Packet, bytes: Uint8Array): void {
    const queue = this.#queue;
    const ahead = psnDistance(queue.acknowledgedPsn, packet.psn);
    // Of what was completed before, or never sent: ghosts (IBTA volume 1, section 9.7.5.1.2).
    const unsent = psnDistance(queue.sentPsn, packet.psn);
    if (ahead < 0 || unsent > 0 || (unsent === 0 && !asksForNext(packet))) return;
    if ((packet.traits & (Trait.READ | Trait.ATOMIC)) !== 0) {
      this.#takeAnswer(packet, bytes, ahead);
    } else {
      this.#takeAcknowledgement(packet, ahead);
    }
  }

  /** The deadline has passed. */
  expire(): void {
    const { port, window } = this.#connection;
    this.deadline = Infinity;
    if (this.#waitsForReceive) {
      this.#waitsForReceive = false;
      return this.#connection.schedule();
    }
    // What waits for the window is not waited for.
    if (this.#queue.isRewound) return;
    port.counters.count(Counter.LOCAL_ACK_TIMEOUT_ERR);
    if (!this.#requester.isProbing) window.lost(port.now);
    this.#requester.isProbing = true;
    this.#answersRequested = false;
    this.#retry();
  }

  /** The oldest request ends with `status`, and the queue pair with it. */
  failHead(status: WcStatusName): void {
    const queue = this.#queue;
    if (!queue.isEmpty) {
      const { wrId, opcode } = queue.at(queue.head);
      queue.head += 1;
      queue.headPackets = 0;
      this.#connection.sent(wrId, status, completionOpcodes[opcode], 0);
    }
    this.#connection.fail();
  }

  #takeAcknowledgement(packet: Packet, ahead: number): void {
    const { syndrome } = packet;
    switch (syndrome & SYNDROME_KIND_MASK) {
      case Syndrome.NAK:
        // It acknowledges all before.
        if (this.#acknowledge(ahead)) this.#takeNak(syndrome & 0x1f);
        break;
      case Syndrome.RNR_NAK:
        if (this.#acknowledge(ahead)) this.#takeRnrNak(syndrome & 0x1f);
        break;
      case 0:
        this.#acknowledge(ahead + 1);
        break;
    }
  }

  #takeNak(code: number): void {
    const { port, window } = this.#connection;
    switch (code) {
      case NakCode.PSN_SEQUENCE_ERROR:
        // Another copy of one that was obeyed.
        if (this.#queue.isRewound) return;
        port.counters.count(Counter.PACKET_SEQ_ERR);
        window.lost(port.now);
        return this.#retry();
      case NakCode.INVALID_REQUEST:
        port.counters.count(Counter.REQ_REMOTE_INVALID_REQUEST);
        return this.failHead("IBV_WC_REM_INV_REQ_ERR");
      case NakCode.REMOTE_ACCESS_ERROR:
        port.counters.count(Counter.REQ_REMOTE_ACCESS_ERRORS);
        return this.failHead("IBV_WC_REM_ACCESS_ERR");
      case NakCode.REMOTE_OPERATIONAL_ERROR:
        return this.failHead("IBV_WC_REM_OP_ERR");
        // Others are reserved for RC: silently dropped, and the timer goes on.
    }
  }

  #takeRnrNak(timerCode: number): void {
    const { port } = this.#connection;
    if (this.#queue.isRewound) return;
    port.counters.count(Counter.RNR_NAK_RETRY_ERR);
    if (this.#rnrRetriesLeft === 0) {
      port.counters.count(Counter.RETRY_EXCEEDED);
      return this.failHead("IBV_WC_RNR_RETRY_EXC_ERR");
    }
    if (this.#rnrRetriesLeft !== FOR_EVER) this.#rnrRetriesLeft -= 1;
    this.#rewind();
    this.#requester.resumeAt = port.now + RNR_TIMER_MS[timerCode]!;
    this.#waitsForReceive = true;
    this.#restartTimer();
  }

  #takeAnswer(packet: Packet, bytes: Uint8Array, ahead: number): void {
    const queue = this.#queue;
    // An answer acknowledges all before it.
    if (!this.#acknowledge(ahead)) return;
    const request = queue.isEmpty ? undefined : queue.at(queue.head);
    const expected = request &&
      (packet.traits & Trait.READ ? request.opcode === Opcode.READ : request.isAtomic);
    if (!request || !expected || request.packets === 0) return;
    if (packet.traits & Trait.AETH && (packet.syndrome & SYNDROME_KIND_MASK) !== 0) return;
    this.#answersRequested = false;
    if (
      request.isAtomic
        ? !this.#storeOriginal(request, packet)
        : !this.#store(request, packet, bytes)
    ) {
      return;
    }
    this.#complete(1);
    this.#progressed(1);
  }

  /** Stores a READ response. False when it did not fit: the request has failed. */
  #store(request: SendRequest, packet: Packet, bytes: Uint8Array): boolean {
    const { mtu } = this.#connection;
    const offset = this.#queue.headPackets * mtu;
    const expected = Math.min(mtu, request.length - offset);
    if (packet.payloadBytes !== expected) {
      this.failHead("IBV_WC_BAD_RESP_ERR");
      return false;
    }
    if (request.buffers.scatter(offset, bytes, packet.payload, expected)) return true;
    this.failHead("IBV_WC_LOC_PROT_ERR");
    return false;
  }

  /** Stores an atomic's answer as this host writes 64-bit numbers: with the lowest byte first. */
  #storeOriginal(request: SendRequest, packet: Packet): boolean {
    originalWords[0] = packet.originalLow;
    originalWords[1] = packet.originalHigh;
    if (request.buffers.scatter(0, originalBytes, 0, 8)) return true;
    this.failHead("IBV_WC_LOC_PROT_ERR");
    return false;
  }

  /**
   * Completes what `packets` more acknowledge. False when an answer among them is missing: then it
   * was lost, which counts as a NAK (IBTA volume 1, section 9.7.5.1.1), or the queue pair has failed.
   */
  #acknowledge(packets: number): boolean {
    const queue = this.#queue;
    let rest = packets;
    while (rest > 0 && !queue.isEmpty) {
      const request = queue.at(queue.head);
      if (request.isAnswered) break;
      const taken = Math.min(rest, request.packets - queue.headPackets);
      if (taken <= 0) break; // not begun: nothing was sent that could be acknowledged
      this.#complete(taken);
      rest -= taken;
    }
    if (rest < packets) this.#progressed(packets - rest);
    if (rest === 0) return true;
    this.#requestAnswersAgain();
    return false;
  }

  #requestAnswersAgain(): void {
    if (this.#answersRequested) return;
    const { port, window } = this.#connection;
    this.#answersRequested = true;
    port.counters.count(Counter.IMPLIED_NAK_SEQ_ERR);
    window.lost(port.now);
    this.#retry();
  }

  /** `packets` of the head's message are done; completes it with the last. */
  #complete(packets: number): void {
    const queue = this.#queue;
    const request = queue.at(queue.head);
    if (!queue.advanceHead(packets)) return;
    if ((request.flags & SendFlag.SIGNALED) !== 0) {
      const { wrId, opcode, length } = request;
      this.#connection.sent(wrId, "IBV_WC_SUCCESS", completionOpcodes[opcode], length);
    }
  }

  #progressed(packets: number): void {
    const { window, mtu } = this.#connection;
    this.resetRetries();
    this.#requester.isProbing = false;
    window.acknowledged(packets * mtu);
    this.#connection.settleWindow();
    this.#restartTimer();
    this.#connection.schedule();
  }

  #retry(): void {
    if (this.#retriesLeft === 0) {
      this.#connection.port.counters.count(Counter.RETRY_EXCEEDED);
      return this.failHead("IBV_WC_RETRY_EXC_ERR");
    }
    this.#retriesLeft -= 1;
    this.#rewind();
    this.#restartTimer();
    this.#connection.schedule();
  }

  #rewind(): void {
    this.#queue.rewind();
    this.#connection.settleWindow();
  }

  #restartTimer(): void {
    const { port, timeout } = this.#connection;
    this.deadline = this.#waitsForReceive
      ? this.#requester.resumeAt
      : this.#queue.isRewound
      ? Infinity
      : port.now + timeout;
    this.#connection.arm(this.deadline);
  }
}

const originalWords = new Uint32Array(2);
const originalBytes = new Uint8Array(originalWords.buffer);

/** A NAK for the packet after the last: it came after all, and the NAK still acknowledges all before. */
function asksForNext({ traits, syndrome }: Packet): boolean {
  return (traits & (Trait.READ | Trait.ATOMIC)) === 0 &&
    syndrome === (Syndrome.NAK | NakCode.PSN_SEQUENCE_ERROR);
}
