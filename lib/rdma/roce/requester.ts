import { V } from "../../../ffi/libibverbs.ts";
import { Opcode, SendFlag } from "../work_request.ts";
import type { Connection } from "./connection.ts";
import {
  packetBytes,
  padBytes,
  writeAtomicEth,
  writeBth,
  writeImmediate,
  writeReth,
} from "./headers.ts";
import { headerBytesOf, MAX_MESSAGE_BYTES, PacketOpcode } from "./opcode.ts";
import { READ_PIECE_PACKETS, type SendQueue, type SendRequest } from "./send_queue.ts";

/** Packets after which an acknowledgement is asked for, within a message. */
const ACKNOWLEDGE_EVERY = 32;

const ATOMIC_BYTES = 8;

/** Why a request cannot be sent; its completion has this status. */
export type LocalError = "IBV_WC_LOC_PROT_ERR" | "IBV_WC_LOC_LEN_ERR" | "IBV_WC_LOC_QP_OP_ERR";

const dataOpcodes = {
  send: {
    first: PacketOpcode.SEND_FIRST,
    middle: PacketOpcode.SEND_MIDDLE,
    last: PacketOpcode.SEND_LAST,
    only: PacketOpcode.SEND_ONLY,
  },
  write: {
    first: PacketOpcode.WRITE_FIRST,
    middle: PacketOpcode.WRITE_MIDDLE,
    last: PacketOpcode.WRITE_LAST,
    only: PacketOpcode.WRITE_ONLY,
  },
} as const;

/** Sends what is in the send queue (IBTA volume 1, section 9.7.3 and the requester's side of 9.7.5). */
export class Requester {
  /** Nothing is sent before this time: the peer had no receive. Milliseconds. */
  resumeAt = -Infinity;
  /**
   * The peer is silent, or nobody knows yet whether there is one where a client said: one packet at
   * a time until it answers, so that others have the window.
   */
  isProbing = true;
  readonly #connection: Connection;
  readonly #queue: SendQueue;
  readonly #onLocalError: (error: LocalError) => void;

  /** @param onLocalError the request at the cursor cannot be sent, and all before it are complete */
  constructor(
    connection: Connection,
    queue: SendQueue,
    onLocalError: (error: LocalError) => void,
  ) {
    this.#connection = connection;
    this.#queue = queue;
    this.#onLocalError = onLocalError;
  }

  /** Sends packets until there are no more, the window is full or `budget` is used up; returns how many. */
  transmit(budget: number): number {
    const { port, window } = this.#connection;
    const queue = this.#queue;
    let sent = 0;
    while (sent < budget && queue.cursor !== queue.tail && port.now >= this.resumeAt) {
      if (this.isProbing && !queue.isRewound) break;
      if (window.room <= 0) {
        this.#connection.awaitWindow();
        break;
      }
      const request = queue.at(queue.cursor);
      if (!this.#begin(request) || !this.#emit(request, sent + 1 === budget)) break;
      sent += 1;
    }
    return sent;
  }

  /** Checks a request when its first packet is due. False when it has to wait, or failed. */
  #begin(request: SendRequest): boolean {
    const queue = this.#queue;
    const { mtu } = this.#connection;
    if (request.packets > 0) return request.isAlive || this.#refuse("IBV_WC_LOC_PROT_ERR");
    if ((request.flags & SendFlag.FENCE) !== 0 && queue.answersAwaited > 0) return false;
    const error = this.#localError(request);
    if (error) return this.#refuse(error);
    request.packets = request.isAtomic ? 1 : Math.max(1, Math.ceil(request.length / mtu));
    return true;
  }

  /** The request at the cursor fails, once all before it are complete: requests complete in their order. */
  #refuse(error: LocalError): false {
    if (this.#queue.head === this.#queue.cursor) this.#onLocalError(error);
    return false;
  }

  #localError(request: SendRequest): LocalError | undefined {
    const { port, protectionDomain, maxRdAtomic } = this.#connection;
    if (request.length > MAX_MESSAGE_BYTES) return "IBV_WC_LOC_LEN_ERR";
    if (request.isAtomic && request.length !== ATOMIC_BYTES) return "IBV_WC_LOC_LEN_ERR";
    if (request.isAnswered && maxRdAtomic === 0) return "IBV_WC_LOC_QP_OP_ERR";
    if (request.isInline) return undefined;
    const access = request.isAnswered ? V.IBV_ACCESS_LOCAL_WRITE : 0;
    return request.buffers.resolve(port.regions, protectionDomain, access)
      ? undefined
      : "IBV_WC_LOC_PROT_ERR";
  }

  /** Sends the next packet of a request. False when it has to wait. */
  #emit(request: SendRequest, isLastOfTurn: boolean): boolean {
    switch (request.opcode) {
      case Opcode.READ:
        return this.#emitRead(request);
      case Opcode.COMPARE_AND_SWAP:
      case Opcode.FETCH_AND_ADD:
        return this.#emitAtomic(request);
      default:
        return this.#emitData(request, isLastOfTurn);
    }
  }

  #emitData(request: SendRequest, isLastOfTurn: boolean): boolean {
    const { port, mtu, destQpn, window, destination } = this.#connection;
    const queue = this.#queue;
    const index = queue.cursorPackets;
    const isLast = index === request.packets - 1;
    const offset = index * mtu;
    const bytes = isLast ? request.length - offset : mtu;
    const opcode = dataOpcode(request, index === 0, isLast);
    const length = packetBytes(opcode, bytes);
    const at = port.beginPacket(destination, length);
    if (at < 0) return false;
    const { transmitView: view, transmitBytes } = port;
    const acknowledge = isLast || isLastOfTurn || this.isProbing ||
      index % ACKNOWLEDGE_EVERY === 0 ||
      window.room <= mtu;
    const solicited = isLast && (request.flags & SendFlag.SOLICITED) !== 0;
    writeBth(view, at, opcode, bytes, destQpn, queue.nextPsn, acknowledge, solicited);
    if (index === 0 && isWrite(request.opcode)) {
      writeReth(view, at, request.remoteAddress, request.rkey, request.length);
    }
    if (isLast && hasImmediate(request.opcode)) {
      writeImmediate(view, at, opcode, request.immediate);
    }
    const payload = at + headerBytesOf(opcode);
    request.gather(offset, bytes, transmitBytes, payload);
    transmitBytes.fill(0, payload + bytes, payload + bytes + padBytes(bytes));
    port.endPacket(at, length);
    this.#advance(1);
    return true;
  }

  /**
   * Asks for the next piece of a READ, which is a request of its own on the wire. One that is tried
   * again ends where it did before: the responder knows the requests that it has answered.
   */
  #emitRead(request: SendRequest): boolean {
    const { port, mtu, destQpn, maxRdAtomic, destination } = this.#connection;
    const queue = this.#queue;
    if (queue.answersAwaited >= maxRdAtomic) return false;
    const index = queue.cursorPackets;
    const packets = Math.min(
      request.packets - index,
      READ_PIECE_PACKETS - index % READ_PIECE_PACKETS,
    );
    const offset = index * mtu;
    const bytes = Math.min(packets * mtu, request.length - offset);
    const length = packetBytes(PacketOpcode.READ_REQUEST, 0);
    const at = port.beginPacket(destination, length);
    if (at < 0) return false;
    const view = port.transmitView;
    writeBth(view, at, PacketOpcode.READ_REQUEST, 0, destQpn, queue.nextPsn, true, false);
    writeReth(view, at, request.remoteAddress + offset, request.rkey, bytes);
    port.endPacket(at, length);
    this.#advance(packets);
    return true;
  }

  #emitAtomic(request: SendRequest): boolean {
    const { port, destQpn, maxRdAtomic, destination } = this.#connection;
    const queue = this.#queue;
    if (queue.answersAwaited >= maxRdAtomic) return false;
    const swaps = request.opcode === Opcode.COMPARE_AND_SWAP;
    const opcode = swaps ? PacketOpcode.COMPARE_SWAP : PacketOpcode.FETCH_ADD;
    const length = packetBytes(opcode, 0);
    const at = port.beginPacket(destination, length);
    if (at < 0) return false;
    const { operandHigh, operandLow, swapHigh, swapLow } = request;
    const view = port.transmitView;
    writeBth(view, at, opcode, 0, destQpn, queue.nextPsn, true, false);
    // The first value is what to swap in or to add, the second what to compare with (IBTA volume 1, section 9.3.3).
    if (swaps) {
      writeAtomicEth(
        view,
        at,
        request.remoteAddress,
        request.rkey,
        swapHigh,
        swapLow,
        operandHigh,
        operandLow,
      );
    } else {
      writeAtomicEth(
        view,
        at,
        request.remoteAddress,
        request.rkey,
        operandHigh,
        operandLow,
        0,
        0,
      );
    }
    port.endPacket(at, length);
    this.#advance(1);
    return true;
  }

  #advance(packets: number): void {
    this.#queue.advanceCursor(packets);
    this.#connection.settleWindow();
  }
}

function isWrite(opcode: Opcode): boolean {
  return opcode === Opcode.WRITE || opcode === Opcode.WRITE_WITH_IMMEDIATE;
}

function hasImmediate(opcode: Opcode): boolean {
  return opcode === Opcode.SEND_WITH_IMMEDIATE || opcode === Opcode.WRITE_WITH_IMMEDIATE;
}

function dataOpcode(request: SendRequest, isFirst: boolean, isLast: boolean): number {
  const opcodes = isWrite(request.opcode) ? dataOpcodes.write : dataOpcodes.send;
  if (!isLast) return isFirst ? opcodes.first : opcodes.middle;
  const opcode = isFirst ? opcodes.only : opcodes.last;
  // With immediate data it is the next opcode.
  return hasImmediate(request.opcode) ? opcode + 1 : opcode;
}
