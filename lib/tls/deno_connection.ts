import { errorText, TlsError } from "../errors.ts";
import { type Endpoint, endpointText, type TlsConnection } from "./connection.ts";
import { shutDown } from "./descriptor.ts";
import { protocolMissing } from "./failure.ts";

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
  peer: Endpoint,
  protocols: readonly string[],
): Promise<TlsConnection> {
  try {
    const { alpnProtocol } = await tls.handshake();
    if (protocols.length > 0 && !protocols.includes(alpnProtocol ?? "")) {
      throw protocolMissing(peer, protocols);
    }
    return new DenoConnection(tls, alpnProtocol);
  } catch (error) {
    closeAtOnce(tls);
    throw error;
  }
}

class DenoConnection implements TlsConnection {
  readonly handshake = undefined;
  readonly peerCertificates = [];
  readonly #tls: Deno.TlsConn;
  #closed = false;
  #unwritten: Uint8Array[] = [];
  #writing: Promise<void> | undefined;

  constructor(tls: Deno.TlsConn, readonly alpn: string | null) {
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
      return await this.#tls.read(buffer);
    } catch (error) {
      if (this.#closed) return null;
      throw this.#lost(error);
    }
  }

  write(bytes: Uint8Array): Promise<void> {
    this.#unwritten.push(bytes);
    return this.#writing ??= this.#writeAll();
  }

  /** What gathered while a write was under way goes out together in the next. */
  async #writeAll(): Promise<void> {
    try {
      await Promise.resolve();
      while (this.#unwritten.length > 0) {
        const batch = join(this.#unwritten.splice(0));
        try {
          for (let written = 0; written < batch.length;) {
            written += await this.#tls.write(batch.subarray(written));
          }
        } finally {
          // It may hold a copy of a secret.
          batch.fill(0);
        }
      }
    } catch (error) {
      this.#unwritten = [];
      throw this.#lost(error);
    } finally {
      this.#writing = undefined;
    }
  }

  #lost(cause: unknown): TlsError {
    const peer = endpointText(this.peerAddress);
    if (this.#closed) {
      return new TlsError("connection_closed", `The connection to ${peer} is closed`, "", {
        cause,
      });
    }
    // rustls says so with an address of its manual.
    const why = /close_notify/.test(errorText(cause))
      ? "the other side ended it without a goodbye"
      : errorText(cause);
    return new TlsError(
      "connection_lost",
      `The connection to ${peer} was lost: ${why}`,
      "The other side's log may say why",
      { cause },
    );
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    const timer = setTimeout(() => shutDown(this.#tls), lingerMilliseconds);
    try {
      await this.#writing;
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

function join(parts: readonly Uint8Array[]): Uint8Array {
  const joined = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

/** Connections that are closed: their addresses may be another's by now. */
const closed = new WeakSet<Deno.Conn<Deno.NetAddr>>();

/** Closes whatever state the connection is in. */
export function closeAtOnce(connection: Deno.Conn<Deno.NetAddr>): void {
  if (closed.has(connection)) return;
  closed.add(connection);
  shutDown(connection);
  closeQuietly(connection);
}

/** Closes what may be closed already: Deno throws then. */
export function closeQuietly(closer: { close(): void }): void {
  try {
    closer.close();
  } catch (error) {
    if (!(error instanceof Deno.errors.BadResource)) throw error;
  }
}

/** A socket that listens on `::` shows IPv4 peers as `::ffff:10.0.0.1`; limits and GIDs do not. */
export function endpointOf({ hostname, port }: Deno.NetAddr): Endpoint {
  return { hostname: hostname.replace(/^::ffff:(?=[\d.]+$)/, ""), port };
}
