import { hkdfSync } from "node:crypto";
import type { Direction } from "../control/keys.ts";
import { RdmaError } from "../errors.ts";
import { KEY_BYTES, NONCE_BYTES, type RecordCipher } from "./record_cipher.ts";

export const SEQUENCE_BYTES = 8;

/** What may go under one key. */
export interface KeyLimits {
  readonly records: number;
  readonly bytes: number;
}

/** See seal.ts for why. */
export const keyLimits: KeyLimits = { records: 2 ** 24, bytes: 2 ** 36 };

/** Where in the associated data what changes stands. */
const AT = { direction: 16, channel: 17, epoch: 20, sequence: 24, offset: 32, length: 40 } as const;

/** Whose records a lane has: what is the same in the associated data of all. */
export interface LaneName {
  /** 16 bytes. */
  readonly session: Uint8Array;
  /** Who seals. */
  readonly direction: Direction;
  readonly channel: number;
  readonly epoch: number;
}

/** One direction of a channel: its key, its sequence, and what was sealed under the key. */
export class RecordLane implements Disposable {
  #sequence = 0;
  #records = 0;
  #bytes = 0;
  #ended = false;

  /**
   * @param cipher is the lane's
   * @param key is the lane's, and wiped by it
   */
  constructor(
    private readonly cipher: RecordCipher,
    { session, direction, channel, epoch }: LaneName,
    private readonly key: Uint8Array<ArrayBuffer>,
    private readonly limits: KeyLimits,
  ) {
    const data = cipher.associatedData;
    session.forEach((octet, index) => data.setUint8(index, octet));
    data.setUint8(AT.direction, direction === "client" ? 0 : 1);
    data.setUint8(AT.channel, channel);
    data.setUint32(AT.epoch, epoch);
    cipher.setKey(key);
  }

  /** Of the next record. */
  get sequence(): number {
    return this.#sequence;
  }

  /**
   * The cipher, prepared for the next record. Its nonce is used up then, whatever becomes of it.
   */
  next(offset: number, length: number): RecordCipher {
    if (this.#ended) throw new RdmaError("session_ended", "the session has ended");
    if (this.#records >= this.limits.records || this.#bytes >= this.limits.bytes) this.#rekey();
    const { nonce, associatedData } = this.cipher;
    setUint64(nonce, NONCE_BYTES - SEQUENCE_BYTES, this.#sequence);
    setUint64(associatedData, AT.sequence, this.#sequence);
    setUint64(associatedData, AT.offset, offset);
    associatedData.setUint32(AT.length, length);
    this.#sequence += 1;
    this.#records += 1;
    this.#bytes += length;
    return this.cipher;
  }

  [Symbol.dispose](): void {
    if (this.#ended) return;
    this.#ended = true;
    this.key.fill(0);
    this.cipher[Symbol.dispose]();
  }

  #rekey(): void {
    const next = deriveKey(this.key, rekeyInfo);
    this.key.set(next);
    next.fill(0);
    this.cipher.setKey(this.key);
    this.#records = 0;
    this.#bytes = 0;
  }
}

const rekeyInfo = new TextEncoder().encode("verbseal/1 rekey");

/** HKDF-SHA-256 (RFC 5869) without salt: what comes in is a key already. */
export function deriveKey(key: Uint8Array, info: Uint8Array): Uint8Array<ArrayBuffer> {
  return new Uint8Array(hkdfSync("sha256", key, new Uint8Array(0), info, KEY_BYTES));
}

/** A safe integer, big-endian; without a bigint, which every record would have to allocate. */
function setUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value / 2 ** 32);
  view.setUint32(at + 4, value);
}
