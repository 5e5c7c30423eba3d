import { libc } from "../../ffi/libc.ts";
import { libcryptoEvp } from "../../ffi/libcrypto_evp.ts";
import { Memory } from "../../ffi/memory.ts";
import type { SealKeys } from "../../lib/control/keys.ts";
import type { SealCipher } from "../../lib/control/messages.ts";
import type { IntegrityError } from "../../lib/errors.ts";
import type { KeyLimits } from "../../lib/security/record_lane.ts";
import { RECORD_OVERHEAD, SessionSeal } from "../../lib/security/seal.ts";

// They stay open for the life of the process, and are not the leak of the first test that needs them.
libc();
libcryptoEvp();

/** What a session's records depend on; `own` is the client's key. */
export const clientKeys = (change: Partial<SealKeys> = {}): SealKeys => ({
  cipher: "aes-256-gcm",
  session: Uint8Array.from({ length: 16 }, (_, index) => index),
  epoch: 0,
  own: new Uint8Array(32).fill(0x11),
  peer: new Uint8Array(32).fill(0x22),
  ...change,
});

/** The same as the server has them. */
export const serverKeys = (change: Partial<SealKeys> = {}): SealKeys => {
  const { own, peer, ...keys } = clientKeys(change);
  return { ...keys, own: peer, peer: own };
};

/** Both sides of a session, with the failures that they end it for. */
export class SealedPair implements Disposable {
  readonly failures: IntegrityError[] = [];
  readonly client: SessionSeal;
  readonly server: SessionSeal;

  constructor(
    { cipher = "aes-256-gcm", ...more }: { cipher?: SealCipher; limits?: KeyLimits } = {},
  ) {
    const fail = (error: IntegrityError) => void this.failures.push(error);
    this.client = new SessionSeal(clientKeys({ cipher }), { side: "client", fail, ...more });
    this.server = new SessionSeal(serverKeys({ cipher }), { side: "server", fail, ...more });
  }

  [Symbol.dispose](): void {
    this.client[Symbol.dispose]();
    this.server[Symbol.dispose]();
  }
}

/** Memory that holds these bytes. */
export function memoryOf(bytes: Uint8Array): Memory {
  const memory = new Memory(Math.max(1, bytes.length));
  memory.bytes.set(bytes);
  return memory;
}

/** The record that a channel seals of these bytes. */
export function sealed(
  channel: { seal: (...args: [Memory, number, number, Memory, number, number]) => void },
  bytes: Uint8Array,
  offset = 0,
): Uint8Array {
  using source = memoryOf(bytes);
  using record = new Memory(bytes.length + RECORD_OVERHEAD);
  channel.seal(source, 0, bytes.length, record, 0, offset);
  return record.bytes.slice();
}

/**
 * What a channel opens of a record, and the target when it does not.
 *
 * @param length of the plaintext; what the record says of itself unless told
 */
export function opened(
  channel: { open: (...args: [Memory, number, number, Memory, number, number]) => void },
  record: Uint8Array,
  offset = 0,
  length = record.length - RECORD_OVERHEAD,
): Uint8Array {
  using source = memoryOf(record);
  using target = new Memory(Math.max(1, length));
  channel.open(source, 0, length, target, 0, offset);
  return target.bytes.slice(0, length);
}
