import { pointerOf } from "../../ffi/layout.ts";
import { check, libc } from "../../ffi/libc.ts";
import { TlsError } from "../errors.ts";
import type { TlsConnection } from "./connection.ts";

/** The application protocol of data connections (ALPN, RFC 7301). */
export const dataProtocol = "verbseal-data/1";

/** Whether the kernel seals what this side sends, and opens what it receives. */
export interface SealedByKernel {
  readonly send: boolean;
  readonly receive: boolean;
}

/** A TLS connection that carries much data. */
export interface DataStream {
  readonly sealedByKernel: SealedByKernel;

  /** As {@linkcode TlsConnection.read}. */
  read(buffer: Uint8Array): Promise<number | null>;

  /** Writes all of `bytes`, which may be changed once it resolves; one write at a time. */
  write(bytes: Uint8Array): Promise<void>;

  /**
   * Writes bytes of a file, which the kernel takes out of its page cache where it seals them.
   *
   * @param descriptor of a regular file
   * @throws TlsError also when the file ends before
   */
  sendFile(descriptor: number, position: number, length: number): Promise<void>;

  /** As {@linkcode TlsConnection.close}. */
  close(): Promise<void>;

  /** Closes at once. */
  abort(): void;
}

/** Bytes of a file read at once. */
const FILE_BYTES = 2 ** 16;

/** A connection whose records this process seals and opens. */
class UserSpaceStream implements DataStream {
  readonly sealedByKernel = { send: false, receive: false };

  constructor(private readonly connection: TlsConnection) {}

  read(buffer: Uint8Array): Promise<number | null> {
    return this.connection.read(buffer);
  }

  write(bytes: Uint8Array): Promise<void> {
    return this.connection.write(bytes);
  }

  async sendFile(descriptor: number, position: number, length: number): Promise<void> {
    const buffer = new Uint8Array(Math.min(FILE_BYTES, length));
    for (let sent = 0; sent < length;) {
      const wanted = BigInt(Math.min(buffer.length, length - sent));
      const target = pointerOf(buffer);
      const count = libc().pread(descriptor, target, wanted, BigInt(position + sent));
      if (Number(count) <= 0) throw fileEnded(Number(count));
      await this.write(buffer.subarray(0, Number(count)));
      sent += Number(count);
    }
  }

  close(): Promise<void> {
    return this.connection.close();
  }

  abort(): void {
    this.connection.abort();
  }
}

/** The connection as a stream; it is the stream's from then on. */
export function dataStreamOf(connection: TlsConnection): DataStream {
  return new UserSpaceStream(connection);
}

function fileEnded(count: number): TlsError {
  check("pread", count);
  return new TlsError("file_changed", "a file became shorter while it was sent");
}
