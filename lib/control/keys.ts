import { Buffer } from "node:buffer";
import { createHmac, hkdfSync } from "node:crypto";
import type { SealCipher } from "./messages.ts";

/** Who sends what a key is for. */
export type Direction = "client" | "server";

/** What a session key is bound to, besides both secrets and the transcript. */
export interface KeyContext {
  readonly epoch: number;
  /** Both queue pairs; a data connection has none. */
  readonly qpns?: { readonly client: number; readonly server: number };
}

/** What one epoch's records are sealed with; plain data, to cross threads. */
export interface SealKeys {
  readonly cipher: SealCipher;
  /** Bytes of the session's name. */
  readonly session: Uint8Array<ArrayBuffer>;
  readonly epoch: number;
  /** 32 bytes, of what this side sends. */
  readonly own: Uint8Array<ArrayBuffer>;
  /** 32 bytes, of what the peer sends. */
  readonly peer: Uint8Array<ArrayBuffer>;
}

/**
 * Session keys: HKDF-SHA-256 (RFC 5869) over both SECRETs, salted with the hash of all frames so
 * far, with purpose, direction, epoch and, for queue pairs, both QPNs in the info. Dispose it to wipe the secrets.
 */
export class KeySchedule implements Disposable {
  readonly #secrets: Uint8Array;
  readonly #transcript: Uint8Array;

  /**
   * @param clientSecret 32 bytes, wiped here
   * @param serverSecret 32 bytes, wiped here
   * @param transcript SHA-256 of all frames so far, in the order of the exchange
   */
  constructor(clientSecret: Uint8Array, serverSecret: Uint8Array, transcript: Uint8Array) {
    // Short arrays without a buffer of their own stand in JavaScript's heap, which moves and leaves copies.
    this.#secrets = new Uint8Array(new ArrayBuffer(clientSecret.length + serverSecret.length));
    this.#secrets.set(clientSecret);
    this.#secrets.set(serverSecret, clientSecret.length);
    clientSecret.fill(0);
    serverSecret.fill(0);
    this.#transcript = transcript;
  }

  /** 32 bytes for one purpose and one direction. */
  key(purpose: string, direction: Direction, context: KeyContext): Uint8Array<ArrayBuffer> {
    const label = new TextEncoder().encode(`verbseal/1 ${purpose} ${direction}\0`);
    const info = Buffer.concat([label, bigEndian(context.epoch), qpnsOf(context)]);
    return new Uint8Array(hkdfSync("sha256", this.#secrets, this.#transcript, info, 32));
  }

  /**
   * What shows, at the other end of a queue pair, of a CM connection or of a data connection, that
   * it is the same peer as in TLS.
   */
  token(purpose: "proof" | "cm" | "data", direction: Direction, context: KeyContext): Uint8Array {
    const key = this.key(purpose, direction, context);
    try {
      return new Uint8Array(createHmac("sha256", key).update(qpnsOf(context)).digest());
    } finally {
      key.fill(0);
    }
  }

  [Symbol.dispose](): void {
    this.#secrets.fill(0);
  }
}

function qpnsOf({ qpns }: KeyContext): Uint8Array {
  return qpns ? bigEndian(qpns.client, qpns.server) : bigEndian();
}

/** Numbers of 32 bits each. */
function bigEndian(...numbers: number[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(4 * numbers.length));
  numbers.forEach((number, index) => view.setUint32(4 * index, number));
  return new Uint8Array(view.buffer);
}
