import type { TlsError } from "../errors.ts";
import type { Endpoint, TlsConnection } from "./connection.ts";
import { lostConnection } from "./deno_failure.ts";
import { shutDown } from "./descriptor.ts";
import { connectionClosed, protocolMissing, type Side } from "./failure.ts";
import { closeQuietly, endpointOf } from "./tcp.ts";
import { WriteQueue } from "./write_queue.ts";

/** How long a polite close waits for the peer's goodbye, in milliseconds. */
const lingerMilliseconds = 1000;

/**
 * Finishes the handshake; the connection is closed unless both sides agree on one of `protocols`.
 *
 * @param protocols without any, none is asked for
 * @throws TlsError when they do not, else what Deno throws when the handshake fails
 */
export async function agree(
  tls: Deno.TlsConn,
  side: Side,
  peer: Endpoint,
  protocols: readonly string[],
): Promise<TlsConnection> {
  try {
    const { alpnProtocol } = await tls.handshake();
    if (protocols.length > 0 && !protocols.includes(alpnProtocol ?? "")) {
      throw protocolMissing(peer, protocols);
    }
    return new DenoConnection(tls, side, alpnProtocol);
  } catch (error) {
    closeAtOnce(tls);
    throw error;
  }
}

class DenoConnection implements TlsConnection {
  readonly handshake = undefined;
  readonly peerCertificates = [];
  readonly #tls: Deno.TlsConn;
  readonly #writes = new WriteQueue((bytes) => this.#tls.write(bytes));
  #hasWritten = false;
  #closed = false;

  constructor(tls: Deno.TlsConn, private readonly side: Side, readonly alpn: string | null) {
    this.#tls = tls;
  }

  get peerAddress(): Endpoint {
    return endpointOf(this.#tls.remoteAddr);
  }

  get localAddress(): Endpoint {
    return endpointOf(this.#tls.localAddr);
  }

  async read(buffer: Uint8Array): Promise<number | null> {
    try {
      const count = await this.#tls.read(buffer);
      if (count === null) this.#over();
      return count;
    } catch (error) {
      if (this.#closed) return null;
      this.#over();
      throw this.#lost(error);
    }
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.#hasWritten = true;
    try {
      await this.#writes.write(bytes);
    } catch (error) {
      throw this.#lost(error);
    }
  }

  /** Nothing more comes in. */
  #over(): void {
    if (!this.#hasWritten) finished.add(this.#tls);
  }

  #lost(cause: unknown): TlsError {
    if (this.#closed) return connectionClosed(this.peerAddress, cause);
    return lostConnection(this.side, this.peerAddress, cause);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    const timer = setTimeout(() => shutDown(this.#tls), lingerMilliseconds);
    try {
      await this.#writes.written;
      await this.#tls.closeWrite();
      // A socket closed with bytes unread resets the connection, and the peer may lose the last
      // that was written to it (RFC 1122, section 4.2.2.13).
      const buffer = new Uint8Array(4096);
      while (await this.#tls.read(buffer) !== null);
    } catch {
      // The peer is gone already, or has not said goodbye in time.
      shutDown(this.#tls);
    } finally {
      clearTimeout(timer);
      this.#closed = true;
      closed.add(this.#tls);
      closeQuietly(this.#tls);
    }
  }

  abort(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeAtOnce(this.#tls);
  }
}

/** Connections that are closed: their addresses may be another's by now. */
const closed = new WeakSet<Deno.Conn<Deno.NetAddr>>();

/**
 * Connections in which nothing waits to be sent or to come in: Deno's `close` is enough for them, and
 * to look for their descriptors would take a third of the time of a resumed handshake.
 */
const finished = new WeakSet<Deno.Conn<Deno.NetAddr>>();

/** Closes whatever state the connection is in. */
export function closeAtOnce(connection: Deno.Conn<Deno.NetAddr>): void {
  if (closed.has(connection)) return;
  closed.add(connection);
  if (!finished.has(connection)) shutDown(connection);
  closeQuietly(connection);
}
