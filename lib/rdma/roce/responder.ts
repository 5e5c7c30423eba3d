import { V } from "../../../ffi/libibverbs.ts";
import type { Connection } from "./connection.ts";
import { Counter } from "./counters.ts";
import {
  NakCode,
  type Packet,
  packetBytes,
  padBytes,
  Syndrome,
  SYNDROME_KIND_MASK,
  writeAeth,
  writeAtomicAckEth,
  writeBth,
} from "./headers.ts";
import type { RoceMemoryRegion } from "./memory_region.ts";
import { headerBytesOf, MAX_MESSAGE_BYTES, PacketOpcode, Trait } from "./opcode.ts";
import { psnAfter, psnDistance } from "./psn.ts";
import type { ReceiveQueue } from "./receive_queue.ts";

const { REMOTE_WRITE, REMOTE_READ, REMOTE_ATOMIC } = {
  REMOTE_WRITE: V.IBV_ACCESS_REMOTE_WRITE,
  REMOTE_READ: V.IBV_ACCESS_REMOTE_READ,
  REMOTE_ATOMIC: V.IBV_ACCESS_REMOTE_ATOMIC,
};

type PeerFault = "IBV_EVENT_QP_REQ_ERR" | "IBV_EVENT_QP_ACCESS_ERR";

/** A READ or an atomic that is being answered, or was: kept to answer it again (IBTA volume 1, section 9.7.5.1.2). */
class Answer {
  psn = 0;
  packets = 0;
  isAtomic = false;
  address = 0;
  rkey = 0;
  length = 0;
  originalHigh = 0;
  originalLow = 0;
  /** What of it is wanted now: PSN, packets, address and bytes. */
  fromPsn = 0;
  wantedPackets = 0;
  fromAddress = 0;
  wantedBytes = 0;
  /** Packets sent of what is wanted. */
  sent = 0;
  /** Messages completed with it. */
  msn = 0;
  isDue = false;
  /** It was sent before, and is due because it was asked for again. */
  isRepeat = false;
}

/** Takes requests, does what they ask if they may, and answers (IBTA volume 1, section 9.7.4 and the responder's side of 9.7.5). */
export class Responder {
  /** PSN of the next request. */
  expectedPsn: number;
  readonly #connection: Connection;
  readonly #receives: ReceiveQueue;
  /** Messages completed: the MSN. */
  #messages = 0;
  /** The message under way; between messages it is 0. */
  #message: 0 | typeof Trait.SEND | typeof Trait.WRITE = 0;
  /** Bytes of the message that have been stored. */
  #offset = 0;
  /** The WRITE under way. */
  #region: RoceMemoryRegion | undefined;
  #start = 0;
  #length = 0;
  /** A NAK was sent, and nothing but the packet that it asked for counts. */
  #naked = false;
  /** READs and atomics, the latest `maxDestRdAtomic`, and the place of the next. */
  readonly #answers: Answer[];
  #nextAnswer = 0;
  /** Those due, in the order in which they are answered. */
  readonly #due: Answer[] = [];
  #acknowledgeDue = false;
  /** A NAK that waits for the answers before it. */
  #nak = 0;
  #fault: PeerFault | undefined;
  #ended = false;

  constructor(connection: Connection, receives: ReceiveQueue, expectedPsn: number) {
    this.#connection = connection;
    this.#receives = receives;
    this.expectedPsn = expectedPsn;
    this.#answers = Array.from({ length: connection.maxDestRdAtomic }, () => new Answer());
  }

  /** Takes a request. `bytes` and `view` hold its payload. */
  receive(packet: Packet, bytes: Uint8Array): void {
    if (this.#ended) return;
    const ahead = psnDistance(this.expectedPsn, packet.psn);
    if (ahead === 0) return this.#execute(packet, bytes);
    const { counters } = this.#connection.port;
    if (ahead < 0) {
      counters.count(Counter.DUPLICATE_REQUEST);
      return this.#repeat(packet);
    }
    counters.count(Counter.OUT_OF_SEQUENCE);
    // One NAK only until the packet comes that it asks for (IBTA volume 1, section 9.7.5.2.4).
    if (!this.#naked) this.#refuse(Syndrome.NAK | NakCode.PSN_SEQUENCE_ERROR);
  }

  /** Sends answers, then the acknowledgement or NAK that is due; at most `budget` packets, and returns how many. */
  transmit(budget: number): number {
    let sent = 0;
    while (sent < budget && this.#due.length > 0) {
      const answer = this.#due[0]!;
      if (!(answer.isAtomic ? this.#sendOriginal(answer) : this.#sendRead(answer))) return sent;
      sent += 1;
      if (answer.sent < answer.wantedPackets) continue;
      answer.isDue = false;
      this.#due.shift();
    }
    if (this.#due.length === 0) sent += this.#acknowledge();
    return sent;
  }

  #execute(packet: Packet, bytes: Uint8Array): void {
    const { traits } = packet;
    const isStart = (traits & Trait.START) !== 0;
    const kind = traits & (Trait.SEND | Trait.WRITE);
    const follows = isStart ? this.#message === 0 : this.#message === kind && kind !== 0;
    if (!follows || !this.#isOfRightLength(packet) || !this.#isAllowed(traits)) {
      return this.#refuseAsInvalid();
    }
    if (traits & Trait.SEND) this.#takeSend(packet, bytes);
    else if (traits & Trait.WRITE) this.#takeWrite(packet, bytes);
    else if (traits & Trait.READ) this.#takeRead(packet);
    else this.#takeAtomic(packet);
  }

  /** What the queue pair does not allow at all is an invalid request; what a region does not, is an access error. */
  #isAllowed(traits: number): boolean {
    const needed = traits & Trait.SEND
      ? 0
      : traits & Trait.WRITE
      ? REMOTE_WRITE
      : traits & Trait.READ
      ? REMOTE_READ
      : REMOTE_ATOMIC;
    return (this.#connection.access & needed) === needed;
  }

  /** All packets of a message but the last are full, and the last of several is not empty (IBTA volume 1, section 9.7.4.1.6). */
  #isOfRightLength({ traits, payloadBytes }: Packet): boolean {
    const { mtu } = this.#connection;
    if ((traits & Trait.PAYLOAD) === 0) return true;
    if ((traits & Trait.END) === 0) return payloadBytes === mtu;
    return payloadBytes <= mtu && (payloadBytes > 0 || (traits & Trait.START) !== 0);
  }

  #takeSend(packet: Packet, bytes: Uint8Array): void {
    const request = this.#receives.next;
    if (!request) return this.#refuseForLackOfReceive();
    const { port, protectionDomain } = this.#connection;
    if (packet.traits & Trait.START) {
      this.#offset = 0;
      if (!request.buffers.resolve(port.regions, protectionDomain, V.IBV_ACCESS_LOCAL_WRITE)) {
        return this.#failReceive("IBV_WC_LOC_PROT_ERR", NakCode.REMOTE_OPERATIONAL_ERROR);
      }
    }
    const { payload, payloadBytes } = packet;
    if (this.#offset + payloadBytes > request.buffers.length) {
      return this.#failReceive("IBV_WC_LOC_LEN_ERR", NakCode.INVALID_REQUEST);
    }
    if (!request.buffers.scatter(this.#offset, bytes, payload, payloadBytes)) {
      return this.#failReceive("IBV_WC_LOC_PROT_ERR", NakCode.REMOTE_OPERATIONAL_ERROR);
    }
    this.#offset += payloadBytes;
    if (packet.traits & Trait.END) this.#completeReceive(packet, this.#offset);
    this.#executed(packet, 1);
  }

  #takeWrite(packet: Packet, bytes: Uint8Array): void {
    if ((packet.traits & Trait.START) !== 0 && !this.#beginWrite(packet)) return;
    const { payload, payloadBytes, traits } = packet;
    const end = this.#offset + payloadBytes;
    // The lengths of the packets make up the length of the message, exactly.
    if (end > this.#length || ((traits & Trait.END) !== 0) !== (end === this.#length)) {
      return this.#refuseAsInvalid();
    }
    const isNotified = (traits & Trait.IMMEDIATE) !== 0;
    if (isNotified && !this.#receives.next) return this.#refuseForLackOfReceive();
    if (payloadBytes > 0) {
      const region = this.#region;
      if (!region?.alive) return this.#refuseAccess();
      region.bytes.set(
        bytes.subarray(payload, payload + payloadBytes),
        this.#start - region.address + this.#offset,
      );
    }
    this.#offset = end;
    if (isNotified) this.#completeReceive(packet, this.#length);
    this.#executed(packet, 1);
  }

  /** Checks a WRITE by its RETH; false when it was refused. */
  #beginWrite({ address, rkey, dmaLength }: Packet): boolean {
    if (dmaLength > MAX_MESSAGE_BYTES) {
      this.#refuseAsInvalid();
      return false;
    }
    const region = this.#granted(REMOTE_WRITE, address, rkey, dmaLength);
    if (region === null) {
      this.#refuseAccess();
      return false;
    }
    this.#region = region;
    this.#start = address;
    this.#length = dmaLength;
    this.#offset = 0;
    return true;
  }

  #takeRead(packet: Packet): void {
    const { mtu } = this.#connection;
    const { address, rkey, dmaLength, psn } = packet;
    const answer = this.#freeAnswer();
    if (!answer || dmaLength > MAX_MESSAGE_BYTES) return this.#refuseAsInvalid();
    if (this.#granted(REMOTE_READ, address, rkey, dmaLength) === null) return this.#refuseAccess();
    answer.isAtomic = false;
    answer.psn = psn;
    answer.packets = Math.max(1, Math.ceil(dmaLength / mtu));
    answer.address = address;
    answer.rkey = rkey;
    answer.length = dmaLength;
    this.#executed(packet, answer.packets);
    answer.msn = this.#messages;
    this.#answer(answer, psn, answer.packets, address, dmaLength);
  }

  #takeAtomic(packet: Packet): void {
    const answer = this.#freeAnswer();
    const { address, rkey, psn } = packet;
    // 8 bytes, aligned (IBTA volume 1, section 9.4.5).
    if (!answer || address % 8 !== 0) return this.#refuseAsInvalid();
    const region = this.#granted(REMOTE_ATOMIC, address, rkey, 8);
    if (!region) return this.#refuseAccess();
    answer.isAtomic = true;
    answer.psn = psn;
    answer.packets = 1;
    operate(region, address - region.address, packet, answer);
    this.#executed(packet, 1);
    answer.msn = this.#messages;
    this.#answer(answer, psn, 1, address, 8);
  }

  /** The region that grants `access`; undefined when no bytes are concerned, as then no key counts; null when it does not. */
  #granted(
    access: number,
    address: number,
    rkey: number,
    length: number,
  ): RoceMemoryRegion | undefined | null {
    const { port, protectionDomain } = this.#connection;
    if (length === 0) return undefined;
    return port.regions.find(rkey, protectionDomain, access, address, length) ?? null;
  }

  /** A place for a READ or an atomic; undefined when the peer has more under way than was agreed. */
  #freeAnswer(): Answer | undefined {
    const answer = this.#answers[this.#nextAnswer];
    if (!answer || (answer.isDue && !answer.isRepeat)) return undefined;
    // Who asks for more has the answer, and was too impatient before.
    if (answer.isDue) this.#due.splice(this.#due.indexOf(answer), 1);
    answer.isDue = answer.isRepeat = false;
    this.#nextAnswer = (this.#nextAnswer + 1) % this.#answers.length;
    return answer;
  }

  #answer(answer: Answer, psn: number, packets: number, address: number, bytes: number): void {
    answer.fromPsn = psn;
    answer.wantedPackets = packets;
    answer.fromAddress = address;
    answer.wantedBytes = bytes;
    answer.sent = 0;
    if (!answer.isDue) this.#due.push(answer);
    answer.isDue = true;
    this.#connection.schedule();
  }

  #answerAgain(
    answer: Answer,
    psn: number,
    packets: number,
    address: number,
    bytes: number,
  ): void {
    answer.isRepeat ||= !answer.isDue;
    this.#answer(answer, psn, packets, address, bytes);
  }

  /** A packet was executed, and `packets` PSNs with it. */
  #executed({ traits, ackRequested }: Packet, packets: number): void {
    this.expectedPsn = psnAfter(this.expectedPsn, packets);
    this.#naked = false;
    this.#message = traits & Trait.END
      ? 0
      : (traits & (Trait.SEND | Trait.WRITE)) as typeof Trait.SEND | typeof Trait.WRITE;
    if ((this.#nak & SYNDROME_KIND_MASK) === Syndrome.RNR_NAK) {
      // It waited for answers, and a receive was posted meanwhile.
      this.#nak = 0;
      this.#acknowledgeDue = true;
    }
    if (traits & Trait.END) this.#messages = (this.#messages + 1) & 0xff_ffff;
    if (!ackRequested || (traits & (Trait.READ | Trait.ATOMIC)) !== 0) return;
    this.#acknowledgeDue = true;
    this.#connection.schedule();
  }

  /** A request that was executed before: answered again, never executed again (IBTA volume 1, section 9.7.4.4). */
  #repeat(packet: Packet): void {
    if (packet.traits & Trait.READ) return this.#repeatRead(packet);
    if (packet.traits & Trait.ATOMIC) return this.#repeatAtomic(packet);
    this.#acknowledgeDue = true;
    this.#connection.schedule();
  }

  /** A READ that is tried again may begin anywhere in the original, and reads again what is there. */
  #repeatRead({ psn, address, rkey, dmaLength }: Packet): void {
    const { mtu } = this.#connection;
    const packets = Math.max(1, Math.ceil(dmaLength / mtu));
    for (const answer of this.#answers) {
      const skipped = psnDistance(answer.psn, psn);
      if (answer.isAtomic || skipped < 0 || skipped + packets > answer.packets) continue;
      const isSame = rkey === answer.rkey && address === answer.address + skipped * mtu &&
        skipped * mtu + dmaLength <= answer.length;
      if (!isSame || this.#granted(REMOTE_READ, address, rkey, dmaLength) === null) return;
      return this.#answerAgain(answer, psn, packets, address, dmaLength);
    }
  }

  #repeatAtomic({ psn }: Packet): void {
    const answer = this.#answers.find((known) =>
      known.isAtomic && known.packets > 0 && known.psn === psn
    );
    if (answer) this.#answerAgain(answer, psn, 1, answer.address, 8);
  }

  #completeReceive({ immediate, traits }: Packet, bytes: number): void {
    const { wrId } = this.#receives.next!;
    this.#receives.consume();
    this.#connection.received(
      wrId,
      "IBV_WC_SUCCESS",
      bytes,
      (traits & Trait.WRITE) !== 0,
      traits & Trait.IMMEDIATE ? immediate : undefined,
    );
  }

  #failReceive(status: "IBV_WC_LOC_LEN_ERR" | "IBV_WC_LOC_PROT_ERR", code: number): void {
    const { wrId } = this.#receives.next!;
    this.#receives.consume();
    this.#connection.received(wrId, status, 0, false, undefined);
    this.#end(code, undefined);
  }

  #refuseForLackOfReceive(): void {
    const { port, minRnrTimer } = this.#connection;
    port.counters.count(Counter.RNR_NAK_SENT);
    this.#refuse(Syndrome.RNR_NAK | minRnrTimer);
  }

  #refuseAsInvalid(): void {
    this.#connection.port.counters.count(Counter.RESP_INVALID_REQUESTS);
    this.#end(NakCode.INVALID_REQUEST, "IBV_EVENT_QP_REQ_ERR");
  }

  #refuseAccess(): void {
    this.#connection.port.counters.count(Counter.RESP_REMOTE_ACCESS_ERRORS);
    this.#end(NakCode.REMOTE_ACCESS_ERROR, "IBV_EVENT_QP_ACCESS_ERR");
  }

  /** The queue pair ends, once this NAK has gone out after the answers before it. */
  #end(code: number, fault: PeerFault | undefined): void {
    this.#ended = true;
    this.#fault = fault;
    this.#refuse(Syndrome.NAK | code);
  }

  #refuse(syndrome: number): void {
    this.#naked = true;
    this.#nak = syndrome;
    this.#connection.schedule();
  }

  /** Sends what is due of NAK and acknowledgement: one packet tells for all before it. */
  #acknowledge(): number {
    if (!this.#acknowledgeDue && this.#nak === 0) return 0;
    const { port, destQpn, destination } = this.#connection;
    const length = packetBytes(PacketOpcode.ACKNOWLEDGE, 0);
    const at = port.beginPacket(destination, length);
    if (at < 0) return 0;
    const psn = this.#nak === 0 ? psnAfter(this.expectedPsn, -1) : this.expectedPsn;
    const syndrome = this.#nak === 0 ? Syndrome.ACK : this.#nak;
    const view = port.transmitView;
    writeBth(view, at, PacketOpcode.ACKNOWLEDGE, 0, destQpn, psn, false, false);
    writeAeth(view, at, syndrome, this.#messages);
    port.endPacket(at, length);
    this.#acknowledgeDue = false;
    this.#nak = 0;
    if (this.#ended) this.#fail();
    return 1;
  }

  #fail(): void {
    if (this.#fault) this.#connection.failForPeer(this.#fault);
    else this.#connection.fail();
  }

  /** Sends the next packet of a READ's answer; false when it has to wait, or ended in a NAK. */
  #sendRead(answer: Answer): boolean {
    const { port, mtu, destQpn, destination } = this.#connection;
    const offset = answer.sent * mtu;
    const bytes = Math.min(mtu, answer.wantedBytes - offset);
    const region = this.#granted(REMOTE_READ, answer.fromAddress + offset, answer.rkey, bytes);
    const psn = psnAfter(answer.fromPsn, answer.sent);
    if (region === null) {
      if (!answer.isRepeat) {
        this.#abandonAnswers(psn);
        return false;
      }
      // It was answered before, and the grant has ended since.
      answer.sent = answer.wantedPackets;
      return true;
    }
    const opcode = readResponseOpcode(answer.sent, answer.wantedPackets);
    const length = packetBytes(opcode, bytes);
    const at = port.beginPacket(destination, length);
    if (at < 0) return false;
    const { transmitView: view, transmitBytes } = port;
    writeBth(view, at, opcode, bytes, destQpn, psn, false, false);
    if (opcode !== PacketOpcode.READ_RESPONSE_MIDDLE) {
      writeAeth(view, at, Syndrome.ACK, answer.msn);
    }
    const payload = at + headerBytesOf(opcode);
    if (region) {
      const start = answer.fromAddress + offset - region.address;
      transmitBytes.set(region.bytes.subarray(start, start + bytes), payload);
    }
    transmitBytes.fill(0, payload + bytes, payload + bytes + padBytes(bytes));
    port.endPacket(at, length);
    answer.sent += 1;
    return true;
  }

  /** The memory was withdrawn while it was being read: what is left is refused. */
  #abandonAnswers(psn: number): void {
    for (const answer of this.#due) answer.isDue = false;
    this.#due.length = 0;
    this.expectedPsn = psn;
    this.#refuseAccess();
  }

  #sendOriginal(answer: Answer): boolean {
    const { port, destQpn, destination } = this.#connection;
    const length = packetBytes(PacketOpcode.ATOMIC_ACKNOWLEDGE, 0);
    const at = port.beginPacket(destination, length);
    if (at < 0) return false;
    const view = port.transmitView;
    writeBth(view, at, PacketOpcode.ATOMIC_ACKNOWLEDGE, 0, destQpn, answer.psn, false, false);
    writeAeth(view, at, Syndrome.ACK, answer.msn);
    writeAtomicAckEth(view, at, answer.originalHigh, answer.originalLow);
    port.endPacket(at, length);
    answer.sent += 1;
    return true;
  }
}

function readResponseOpcode(index: number, packets: number): number {
  if (packets === 1) return PacketOpcode.READ_RESPONSE_ONLY;
  if (index === 0) return PacketOpcode.READ_RESPONSE_FIRST;
  return index === packets - 1
    ? PacketOpcode.READ_RESPONSE_LAST
    : PacketOpcode.READ_RESPONSE_MIDDLE;
}

/** Does an atomic on memory that holds 64-bit numbers with the lowest byte first, and keeps the former value. */
function operate(
  { bytes }: RoceMemoryRegion,
  offset: number,
  packet: Packet,
  answer: Answer,
): void {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset + offset, 2);
  const low = answer.originalLow = words[0]!;
  const high = answer.originalHigh = words[1]!;
  if (packet.opcode === PacketOpcode.FETCH_ADD) {
    const sum = low + packet.swapLow;
    words[0] = sum;
    words[1] = high + packet.swapHigh + (sum > 0xffff_ffff ? 1 : 0);
  } else if (low === packet.compareLow && high === packet.compareHigh) {
    words[0] = packet.swapLow;
    words[1] = packet.swapHigh;
  }
}
