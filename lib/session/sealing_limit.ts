import { TlsError } from "../errors.ts";
import type { DataStream, KernelTls } from "../tls/connection.ts";

/** Bytes of a TLS record at most (RFC 8446, section 5.1). */
const RECORD_BYTES = 2 ** 14;

/** Records that AES-GCM may seal with one key at most (RFC 8446 and RFC 9846, section 5.5). */
const MOST_RECORDS = Math.floor(2 ** 24.5);

/** Records after which a connection is replaced in any case: short messages make many of them. */
const RECORDS = 2 ** 23;

/** Bytes after which a connection is replaced unless told: 64 GiB, in full records half of {@linkcode RECORDS}. */
export const REKEY_BYTES = 2 ** 36;

/** A data connection that counts what goes through it, both ways together. */
export class LimitedStream implements DataStream {
  readonly #due = Promise.withResolvers<void>();
  #bytes = 0;
  #records = 0;

  /** @param rekeyBytes after which it is to be replaced */
  constructor(private readonly stream: DataStream, private readonly rekeyBytes: number) {}

  /** Resolves when another connection, with other keys, should take its place. */
  get due(): Promise<void> {
    return this.#due.promise;
  }

  get kernel(): KernelTls {
    return this.stream.kernel;
  }

  async read(buffer: Uint8Array): Promise<number | null> {
    const count = await this.stream.read(buffer);
    if (count !== null) this.#count(count);
    return count;
  }

  write(bytes: Uint8Array): Promise<void> {
    this.#count(bytes.length);
    return this.stream.write(bytes);
  }

  sendFile(descriptor: number, offset: number, length: number): Promise<void> {
    this.#count(length);
    return this.stream.sendFile(descriptor, offset, length);
  }

  close(): Promise<void> {
    return this.stream.close();
  }

  abort(): void {
    this.stream.abort();
  }

  #count(bytes: number): void {
    this.#bytes += bytes;
    this.#records += Math.ceil(bytes / RECORD_BYTES);
    if (this.#bytes >= this.rekeyBytes || this.#records >= RECORDS) this.#due.resolve();
    if (this.#records <= MOST_RECORDS) return;
    throw new TlsError(
      "rekey_overdue",
      `a data connection has carried ${this.#records} records, and its keys are worn out`,
      "end the session and begin another",
    );
  }
}
