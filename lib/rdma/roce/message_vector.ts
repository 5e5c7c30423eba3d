/** What sendmmsg(2) and recvmmsg(2) take, laid out once for a batch of messages. */
import { addressOf, pointerAt, pointerOf } from "../../../ffi/layout.ts";
import { C, cmsghdr, iovec, mmsghdr, sockaddrIn, sockaddrIn6 } from "../../../ffi/libc.ts";
import type { Endpoint } from "./endpoint.ts";
import {
  BATCH_MESSAGES,
  MESSAGE_SLOT_BYTES,
  type ReceiveBatch,
  type TransmitBatch,
} from "./wire.ts";

const WORD = 4;

/** CMSG_SPACE of a 16 or a 32-bit value. */
const CONTROL_BYTES = cmsghdr.size + 8;
const NAME_BYTES = 32;

/** Word of field `field` in the first message's struct mmsghdr; that of message `i` is `i * HEADER` further. */
const HEADER = mmsghdr.size / WORD;
const NAME_POINTER = mmsghdr.offset("msg_hdr.msg_name") / WORD;
const NAME_LENGTH = mmsghdr.offset("msg_hdr.msg_namelen") / WORD;
const CONTROL_LENGTH = mmsghdr.offset("msg_hdr.msg_controllen") / WORD;
const FLAGS = mmsghdr.offset("msg_hdr.msg_flags") / WORD;
const MESSAGE_LENGTH = mmsghdr.offset("msg_len") / WORD;

/** Behind the headers lie an iovec, room for one control message, and a socket address for each message. */
const VECTORS = BATCH_MESSAGES * mmsghdr.size;
const CONTROLS = VECTORS + BATCH_MESSAGES * iovec.size;
const NAMES = CONTROLS + BATCH_MESSAGES * CONTROL_BYTES;
const TOTAL = NAMES + BATCH_MESSAGES * NAME_BYTES;

const VECTOR = iovec.size / WORD;
const VECTOR_BASE = (VECTORS + iovec.offset("iov_base")) / WORD;
const VECTOR_LENGTH = (VECTORS + iovec.offset("iov_len")) / WORD;
const CONTROL = CONTROL_BYTES / WORD;
const CONTROL_LEVEL = (CONTROLS + cmsghdr.offset("cmsg_level")) / WORD;
const CONTROL_TYPE = (CONTROLS + cmsghdr.offset("cmsg_type")) / WORD;
const CONTROL_DATA = (CONTROLS + cmsghdr.size) / WORD;
const NAME = NAME_BYTES / WORD;

/** One batch: a call changes single words of it. */
class MessageVector {
  readonly words = new Uint32Array(new ArrayBuffer(TOTAL));
  /** Of the header of each message, and so of those from it on. */
  readonly pointers: readonly Deno.PointerValue[];
  #slots = 0;

  constructor() {
    const bytes = new Uint8Array(this.words.buffer);
    const base = addressOf(pointerOf(bytes));
    const headers = Array.from(
      { length: BATCH_MESSAGES },
      (_, message) => mmsghdr.over(bytes, message * mmsghdr.size),
    );
    for (const [message, header] of headers.entries()) {
      header.set("msg_hdr.msg_name", base + BigInt(NAMES + message * NAME_BYTES))
        .set("msg_hdr.msg_iov", base + BigInt(VECTORS + message * iovec.size))
        .set("msg_hdr.msg_iovlen", 1n)
        .set("msg_hdr.msg_control", base + BigInt(CONTROLS + message * CONTROL_BYTES));
    }
    this.pointers = headers.map((_, message) => pointerAt(base + BigInt(message * mmsghdr.size)));
  }

  /** Lets the messages be those whose slots begin at `address`. */
  attach(address: number): void {
    if (this.#slots === address) return;
    this.#slots = address;
    for (let message = 0; message < BATCH_MESSAGES; message++) {
      const at = VECTOR_BASE + message * VECTOR;
      setAddress(this.words, at, address + message * MESSAGE_SLOT_BYTES);
    }
  }
}

function setAddress(words: Uint32Array, at: number, address: number): void {
  words[at] = address; // modulo 2^32
  words[at + 1] = address / 2 ** 32;
}

/** Messages about to be sent: each may ask to be cut into segments (UDP_SEGMENT of udp(7)). */
export class OutgoingMessages extends MessageVector {
  readonly #nameLength: number;

  constructor(nameLength: number) {
    super();
    this.#nameLength = nameLength;
    for (let message = 0; message < BATCH_MESSAGES; message++) {
      this.words[message * HEADER + NAME_LENGTH] = this.#nameLength;
      cmsghdr.over(new Uint8Array(this.words.buffer), CONTROLS + message * CONTROL_BYTES)
        .set("cmsg_len", BigInt(cmsghdr.size + Uint16Array.BYTES_PER_ELEMENT))
        .set("cmsg_level", C.SOL_UDP)
        .set("cmsg_type", C.UDP_SEGMENT);
    }
  }

  prepare(batch: TransmitBatch, first: number): void {
    this.attach(batch.address);
    const { words } = this;
    for (let message = first; message < batch.count; message++) {
      const header = message * HEADER;
      const { sockaddrAddress } = batch.destinations[message]!.remote;
      setAddress(words, header + NAME_POINTER, sockaddrAddress);
      words[message * VECTOR + VECTOR_LENGTH] = batch.lengths[message]!;
      words[message * CONTROL + CONTROL_DATA] = batch.segmentBytes[message]!;
      words[header + CONTROL_LENGTH] = batch.segments[message]! > 1 ? CONTROL_BYTES : 0;
    }
  }

  /** Lets a message be its first packet alone. */
  cutToFirst(batch: TransmitBatch, message: number): void {
    this.words[message * VECTOR + VECTOR_LENGTH] = batch.segmentBytes[message]!;
    this.words[message * HEADER + CONTROL_LENGTH] = 0;
  }
}

/** Messages about to be received: the kernel tells how large their packets are (UDP_GRO of udp(7)). */
export class IncomingMessages extends MessageVector {
  readonly #family: number;
  readonly #octets: Uint8Array;
  readonly #families: Uint16Array;
  readonly #addressWord: number;
  readonly #addressWords: number;
  /** Headers that were changed since they were prepared. */
  #used = BATCH_MESSAGES;

  constructor(local: Endpoint) {
    super();
    this.#family = local.isIpv4 ? C.AF_INET : C.AF_INET6;
    this.#octets = new Uint8Array(this.words.buffer);
    this.#families = new Uint16Array(this.words.buffer);
    const offset = local.isIpv4 ? sockaddrIn.offset("sin_addr") : sockaddrIn6.offset("sin6_addr");
    this.#addressWord = (NAMES + offset) / WORD;
    this.#addressWords = local.address.length / WORD;
    for (let message = 0; message < BATCH_MESSAGES; message++) {
      this.words[message * VECTOR + VECTOR_LENGTH] = MESSAGE_SLOT_BYTES;
    }
  }

  prepare(batch: ReceiveBatch): void {
    this.attach(batch.address);
    for (let message = 0; message < this.#used; message++) {
      const header = message * HEADER;
      this.words[header + NAME_LENGTH] = NAME_BYTES;
      this.words[header + CONTROL_LENGTH] = CONTROL_BYTES;
    }
    this.#used = 0;
  }

  /** Tells `batch` what the messages from `first` on are, up to `end`; all before were told. */
  deliver(batch: ReceiveBatch, first: number, end: number): void {
    this.#used = end;
    for (let message = first; message < end; message++) {
      const length = this.#isWhole(message) ? this.words[message * HEADER + MESSAGE_LENGTH]! : 0;
      batch.lengths[message] = length;
      batch.segmentBytes[message] = this.#segmentBytes(message) || length;
      this.#tellSource(batch, message);
    }
  }

  #isWhole(message: number): boolean {
    const truncated = this.words[message * HEADER + FLAGS]! & (C.MSG_TRUNC | C.MSG_CTRUNC);
    return truncated === 0 && this.#families[(NAMES + message * NAME_BYTES) / 2] === this.#family;
  }

  /** 0 when the message is one packet. */
  #segmentBytes(message: number): number {
    const { words } = this;
    if (words[message * HEADER + CONTROL_LENGTH] === 0) return 0;
    const control = message * CONTROL;
    return words[control + CONTROL_LEVEL] === C.SOL_UDP &&
        words[control + CONTROL_TYPE] === C.UDP_GRO
      ? words[control + CONTROL_DATA]!
      : 0;
  }

  #tellSource(batch: ReceiveBatch, message: number): void {
    const address = this.#addressWord + message * NAME;
    for (let word = 0; word < 4; word++) {
      batch.sources[4 * message + word] = word < this.#addressWords
        ? this.words[address + word]!
        : 0;
    }
    // The port lies behind the family in sockaddr_in and in sockaddr_in6, the higher octet first.
    const port = NAMES + message * NAME_BYTES + sockaddrIn.offset("sin_port");
    batch.sourcePorts[message] = this.#octets[port]! << 8 | this.#octets[port + 1]!;
  }
}
