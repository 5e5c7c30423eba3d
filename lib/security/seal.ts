/**
 * Sealed records: what RDMA carries, encrypted and authenticated, as RDMA itself does neither
 * (RFC 5042, ReDMArk). The whole construction is on this page.
 *
 * **Record.** u64 sequence, big-endian | ciphertext | tag of 16 bytes: 24 bytes more than the
 * plaintext, wherever it stands. A fragment of a message is one record, header and payload, from
 * the first byte of the receive buffer on: the return of credits and PROOF too. A chunk of a file, in
 * its buffer, is one; so is what the memory service stages.
 *
 * **Keys.** For each epoch, that is each queue pair, the exchange gives a key a direction: HKDF over
 * both SECRETs, salted with the transcript, with direction, epoch and QPNs in the info (see
 * control/keys.ts). Of it HKDF-SHA-256 makes the key of a channel, with "verbseal/1 seal channel",
 * u8 channel and u32 transfer in the info. The messages of the queue pair are one channel, and each
 * transfer of files and each operation on memory is one of its own, as one that is given up leaves
 * records that were sealed and never opened. A transfer's number is used once in an epoch.
 *
 * **Nonce.** Four zero bytes and the sequence, which counts the records of a channel in a direction
 * from 0. With a key for each channel and direction, none comes twice under a key.
 *
 * **Associated data.** Session (16 bytes) | u8 direction (0: from the client) | u8 channel | u16 0 |
 * u32 epoch | u64 sequence | u64 offset | u32 length, big-endian. Offset and length are those of the
 * plaintext in the file or the region; the offset of a fragment is 0. So a record opens at no other
 * place, time, direction or session than it was sealed for.
 *
 * **Opening.** Records of a channel are opened in the order of their sequence, and each once: the
 * sequence must be the next one, and then the tag must be right. All else is an IntegrityError,
 * which ends the session; the target holds nothing of the record then, and none of it is used. AES-GCM
 * reads its input twice, so nothing is opened where the peer can still write: a completed
 * receive is out of its reach, what the server READs is in memory of its own, and a buffer that
 * the peer WRITEs is withdrawn first, or its record copied.
 *
 * **What the peer READs** is sealed out of private memory into the lent buffer before that is granted.
 * Plaintext never stands in lent memory.
 *
 * **Rekeying.** Both sides count the records and the bytes of a channel alike. When 2^24 records or
 * 64 GiB have gone under a key, HKDF of that key with "verbseal/1 rekey" replaces it, at the same
 * record on both sides; the sequence goes on. It takes no message and some microseconds. AES-GCM
 * then stays far below 2^24.5 full records and 2^64 blocks, and who takes a key learns nothing of
 * what was sealed before.
 *
 * **Atomics** change eight bytes in place, which nobody can seal, and no service needs them: no
 * region and no queue pair of a session has REMOTE_ATOMIC, sealed or not.
 *
 * **Ciphers.** AES-256-GCM; ChaCha20-Poly1305 where one of the two processors has no instructions for
 * AES. By libcrypto (EVP), or by node:crypto where that is missing.
 *
 * **Wiping.** Keys are wiped when they are replaced and when the data path ends. On their way to a
 * worker their buffers are transferred, so no copy stays behind.
 */
import type { Memory } from "../../ffi/memory.ts";
import type { Direction, SealKeys } from "../control/keys.ts";
import { IntegrityError, ProtocolError, RdmaError } from "../errors.ts";
import { TAG_BYTES } from "./record_cipher.ts";
import { createRecordCipher } from "./record_ciphers.ts";
import { deriveKey, type KeyLimits, keyLimits, RecordLane, SEQUENCE_BYTES } from "./record_lane.ts";

/** Bytes of a record beyond its plaintext. */
export const RECORD_OVERHEAD = SEQUENCE_BYTES + TAG_BYTES;

/** Bytes of a record's plaintext at most: EVP counts in int. */
const MOST_BYTES = 2 ** 30;

/** What is sealed apart from all else, by its number in the associated data. */
const channels = { messages: 0, files: 1, memory: 2 } as const;

export type SealChannel = keyof typeof channels;

/** How a session seals. */
export interface SessionSealOptions {
  /** This side; its peer is the other. */
  readonly side: Direction;
  /** Ends the session, at once. */
  readonly fail: (error: IntegrityError) => void;
  /** Others than the construction's are for tests; both sides must have the same. */
  readonly limits?: KeyLimits;
  /** Told of the milliseconds that a large record took, which are those of files and memory. */
  readonly worked?: (milliseconds: number) => void;
}

/** The sealing of one epoch: makes the channels. Dispose it to wipe the keys that they are made of. */
export class SessionSeal implements Disposable {
  readonly #keys: SealKeys;
  readonly #options: SessionSealOptions;
  readonly #used = { messages: -1, files: -1, memory: -1 };
  #ended = false;

  /** @param keys are wiped here */
  constructor(keys: SealKeys, options: SessionSealOptions) {
    this.#keys = { ...keys, own: outsideOfHeap(keys.own), peer: outsideOfHeap(keys.peer) };
    wipeKeys(keys);
    this.#options = options;
  }

  /**
   * Opens a channel; dispose it at its end.
   *
   * @param transfer 32 bits, larger than all before on this channel; messages have 0
   * @throws ProtocolError `transfer` when it is not: its keys were used
   * @throws RdmaError `session_ended` when this is disposed
   */
  channel(channel: SealChannel, transfer = 0): RecordSeal {
    if (this.#ended) throw new RdmaError("session_ended", "the session has ended");
    if (transfer <= this.#used[channel]) {
      throw new ProtocolError("transfer", `transfer ${transfer} comes after a later one`);
    }
    this.#used[channel] = transfer;
    const { own, peer } = this.#keys;
    const { side, fail, worked } = this.#options;
    const other = side === "client" ? "server" : "client";
    const number = channels[channel];
    const info = channelInfo(number, transfer);
    return new RecordSeal(
      this.#lane(side, number, deriveKey(own, info)),
      this.#lane(other, number, deriveKey(peer, info)),
      fail,
      channel === "messages" ? undefined : worked,
    );
  }

  [Symbol.dispose](): void {
    wipeKeys(this.#keys);
    this.#ended = true;
  }

  #lane(direction: Direction, channel: number, key: Uint8Array<ArrayBuffer>): RecordLane {
    const { cipher, session, epoch } = this.#keys;
    const way = direction === this.#options.side ? "seal" : "open";
    return new RecordLane(
      createRecordCipher(cipher, way),
      { session, direction, channel, epoch },
      key,
      this.#options.limits ?? keyLimits,
    );
  }
}

/** Wipes keys where they still are: those that another thread has got are not here any more. */
export function wipeKeys({ own, peer }: SealKeys): void {
  for (const key of [own, peer]) {
    if (!key.buffer.detached) key.fill(0);
  }
}

/** A copy that does not move: JavaScript's heap, where short arrays stand, leaves copies behind. */
function outsideOfHeap(key: Uint8Array): Uint8Array<ArrayBuffer> {
  const copy = new Uint8Array(new ArrayBuffer(key.length));
  copy.set(key);
  return copy;
}

/** Seals what one side of a channel sends, and opens what the other side sent, in order. */
export class RecordSeal implements Disposable {
  /**
   * @param fail ends the session
   * @param worked told of the milliseconds that each record took
   */
  constructor(
    private readonly own: RecordLane,
    private readonly peer: RecordLane,
    private readonly fail: (error: IntegrityError) => void,
    private readonly worked?: (milliseconds: number) => void,
  ) {}

  /**
   * Seals bytes of private memory into a record, which is {@linkcode RECORD_OVERHEAD} bytes longer.
   *
   * @param length of the plaintext, up to 2^30 bytes
   * @param offset of the bytes in the file or the region
   * @throws RangeError when that is not within the memory
   */
  seal(
    source: Memory,
    at: number,
    length: number,
    target: Memory,
    targetAt: number,
    offset: number,
  ): void {
    const started = this.worked ? performance.now() : 0;
    checkRange(source, at, length);
    checkRange(target, targetAt, length + RECORD_OVERHEAD);
    putSequence(target.bytes, targetAt, this.own.sequence);
    const cipher = this.own.next(offset, length);
    cipher.seal(source, at, length, target, targetAt + SEQUENCE_BYTES);
    this.worked?.(performance.now() - started);
  }

  /**
   * Opens the next record, which no one may be able to change meanwhile.
   *
   * @param length of the plaintext, up to 2^30 bytes
   * @param offset as when it was sealed
   * @throws IntegrityError `record_forged`, `record_replayed` or `record_out_of_order`, which ends the
   * session too; the target has none of the plaintext
   * @throws RangeError when that is not within the memory
   */
  open(
    source: Memory,
    at: number,
    length: number,
    target: Memory,
    targetAt: number,
    offset: number,
  ): void {
    const started = this.worked ? performance.now() : 0;
    const { sequence } = this.peer;
    // What came may be shorter than any record.
    if (length < 0) throw this.#failed(forged(sequence));
    checkRange(source, at, length + RECORD_OVERHEAD);
    checkRange(target, targetAt, length);
    const found = sequenceAt(source.bytes, at);
    if (found !== sequence) throw this.#failed(misplaced(found, sequence));
    const cipher = this.peer.next(offset, length);
    if (!cipher.open(source, at + SEQUENCE_BYTES, length, target, targetAt)) {
      throw this.#failed(forged(sequence));
    }
    this.worked?.(performance.now() - started);
  }

  [Symbol.dispose](): void {
    this.own[Symbol.dispose]();
    this.peer[Symbol.dispose]();
  }

  #failed(error: IntegrityError): IntegrityError {
    this.fail(error);
    return error;
  }
}

const channelLabel = new TextEncoder().encode("verbseal/1 seal channel");

function channelInfo(channel: number, transfer: number): Uint8Array {
  const info = new Uint8Array(channelLabel.length + 5);
  info.set(channelLabel);
  const numbers = new DataView(info.buffer, channelLabel.length);
  numbers.setUint8(0, channel);
  numbers.setUint32(1, transfer);
  return info;
}

/** C takes addresses as they are, so what is not within the memory must not get there. */
function checkRange(memory: Memory, at: number, length: number): void {
  const sound = Number.isSafeInteger(at) && Number.isSafeInteger(length) && at >= 0 &&
    length >= 0 && length <= MOST_BYTES + RECORD_OVERHEAD &&
    at + length <= memory.bytes.length;
  if (!sound) throw new RangeError(`bytes ${at} to ${at + length} of ${memory.bytes.length}`);
}

function putSequence(bytes: Uint8Array, at: number, sequence: number): void {
  const high = Math.floor(sequence / 2 ** 32);
  for (let index = 0; index < 4; index++) {
    bytes[at + index] = high >>> (24 - 8 * index);
    bytes[at + 4 + index] = sequence >>> (24 - 8 * index);
  }
}

/** Beyond 2^53 it is not exact, and no sequence of ours either way. */
function sequenceAt(bytes: Uint8Array, at: number): number {
  let sequence = 0;
  for (let index = 0; index < SEQUENCE_BYTES; index++) {
    sequence = sequence * 256 + bytes[at + index]!;
  }
  return sequence;
}

const remedy = "someone may be tampering with the RDMA network";

function misplaced(found: number, expected: number): IntegrityError {
  const replayed = found < expected;
  return new IntegrityError(
    replayed ? "record_replayed" : "record_out_of_order",
    `a sealed record has the sequence ${found}, and ${expected} is the next`,
    remedy,
  );
}

function forged(sequence: number): IntegrityError {
  return new IntegrityError(
    "record_forged",
    `the sealed record ${sequence} is not what the peer sealed`,
    remedy,
  );
}
