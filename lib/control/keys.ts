import { createHmac, hkdfSync } from "node:crypto";

/** Who sends what a key is for. */
export type Direction = "client" | "server";

/** What a session key is bound to, besides both secrets and the transcript. */
export interface KeyContext {
  readonly epoch: number;
  readonly clientQpn: number;
  readonly serverQpn: number;
}

/**
 * Session keys: HKDF-SHA-256 (RFC 5869) over both SECRETs, salted with the hash of all frames so
 * far, with purpose, direction, epoch and both QPNs in the info. Dispose it to wipe the secrets.
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
    this.#secrets = new Uint8Array(clientSecret.length + serverSecret.length);
    this.#secrets.set(clientSecret);
    this.#secrets.set(serverSecret, clientSecret.length);
    clientSecret.fill(0);
    serverSecret.fill(0);
    this.#transcript = transcript;
  }

  /** 32 bytes for one purpose and one direction. */
  key(purpose: string, direction: Direction, context: KeyContext): Uint8Array {
    const label = new TextEncoder().encode(`verbseal/1 ${purpose} ${direction}\0`);
    const info = new Uint8Array(label.length + 12);
    info.set(label);
    const numbers = new DataView(info.buffer, label.length);
    numbers.setUint32(0, context.epoch);
    numbers.setUint32(4, context.clientQpn);
    numbers.setUint32(8, context.serverQpn);
    return new Uint8Array(hkdfSync("sha256", this.#secrets, this.#transcript, info, 32));
  }

  /** What shows, at the other end of a queue pair or of a CM connection, that it is the same peer as in TLS. */
  token(purpose: "proof" | "cm", direction: Direction, context: KeyContext): Uint8Array {
    const numbers = new DataView(new ArrayBuffer(8));
    numbers.setUint32(0, context.clientQpn);
    numbers.setUint32(4, context.serverQpn);
    return new Uint8Array(
      createHmac("sha256", this.key(purpose, direction, context)).update(
        new Uint8Array(numbers.buffer),
      ).digest(),
    );
  }

  [Symbol.dispose](): void {
    this.#secrets.fill(0);
  }
}
