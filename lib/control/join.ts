/**
 * How a data connection shows whose it is. It is a TLS connection of its own to the same port, and
 * begins with
 *
 *     client                                   server
 *       session, u32 epoch, token         →      finds the session, compares
 *                                         ←    token
 *
 * Epochs count the data connections of a session from 0: a token serves once.
 */
import { decodeBase64Url, encodeBase64Url } from "@std/encoding/base64url";
import { timingSafeEqual } from "@std/crypto/timing-safe-equal";
import { IntegrityError } from "../errors.ts";
import type { Direction, KeySchedule } from "./keys.ts";
import { SESSION_BYTES } from "./messages.ts";

/** Bytes of a token, which is all of the server's answer. */
export const TOKEN_BYTES = 32;

/** Bytes of what a client begins with. */
export const JOIN_BYTES = SESSION_BYTES + 4 + TOKEN_BYTES;

/** What a client begins with. */
export interface Join {
  /** As WELCOME has it. */
  readonly session: string;
  readonly epoch: number;
  readonly token: Uint8Array;
}

export function encodeJoin({ session, epoch, token }: Join): Uint8Array {
  const bytes = new Uint8Array(JOIN_BYTES);
  bytes.set(decodeBase64Url(session));
  new DataView(bytes.buffer).setUint32(SESSION_BYTES, epoch);
  bytes.set(token, SESSION_BYTES + 4);
  return bytes;
}

/** @param bytes exactly {@linkcode JOIN_BYTES}: any are well formed */
export function decodeJoin(bytes: Uint8Array): Join {
  return {
    session: encodeBase64Url(bytes.subarray(0, SESSION_BYTES)),
    epoch: new DataView(bytes.buffer, bytes.byteOffset).getUint32(SESSION_BYTES),
    token: bytes.slice(SESSION_BYTES + 4, JOIN_BYTES),
  };
}

/** Tokens of a session's data connections. Dispose it to wipe what they are made of. */
export class JoinTokens implements Disposable {
  /** @param keys are wiped with this */
  constructor(private readonly keys: KeySchedule, private readonly side: Direction) {}

  own(epoch: number): Uint8Array {
    return this.keys.token("data", this.side, { epoch });
  }

  /** @throws IntegrityError when this is not the peer's token */
  check(epoch: number, token: Uint8Array): void {
    const peer = this.side === "client" ? "server" : "client";
    if (timingSafeEqual(token, this.keys.token("data", peer, { epoch }))) return;
    throw new IntegrityError(
      "join_token",
      "the peer of the data connection is not the peer of the session",
      "someone may be tampering with the network",
    );
  }

  [Symbol.dispose](): void {
    this.keys[Symbol.dispose]();
  }
}
