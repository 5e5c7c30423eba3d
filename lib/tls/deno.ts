import { delay } from "@std/async/delay";
import { errorText, TlsError } from "../errors.ts";
import { logger } from "../telemetry/log.ts";
import {
  type Endpoint,
  type IncomingConnection,
  protocol,
  type TlsConnection,
  type TlsListener,
} from "./connection.ts";
import { agree, closeAtOnce } from "./deno_connection.ts";
import { setAcceptedOptions } from "./descriptor.ts";
import { handshakeFailure } from "./deno_failure.ts";
import { handshakeTimeout } from "./failure.ts";
import type { DialOptions, ListenOptions } from "./options.ts";
import { closeQuietly, endpointOf, listenFailure } from "./tcp.ts";
import type { Trust } from "./trust.ts";

const log = logger("tls");

/** Pause after a failed accept, in milliseconds: want of descriptors does not pass at once. */
const acceptRetryMilliseconds = 50;

/**
 * Listens for TLS connections; rustls speaks TLS 1.2 and 1.3 only.
 *
 * @param options.port 0 lets the system choose
 * @throws VerbsealError when the address cannot be had, TlsError when the identity is of no use
 */
export function listen(options: ListenOptions): TlsListener {
  const { hostname, port, identity, protocols = [protocol] } = options;
  try {
    const listener = Deno.listenTls({
      hostname,
      port,
      cert: identity.certificate,
      key: identity.key,
      ...(protocols.length > 0 ? { alpnProtocols: [...protocols] } : {}),
    });
    setAcceptedOptions(listener.addr);
    return new DenoListener(listener, protocols);
  } catch (error) {
    throw listenFailure(options, error);
  }
}

/**
 * Does the handshake of {@linkcode dial} on a TCP connection, which is closed if that fails. A
 * process keeps to the kind of trust that it first dials with: the system's authorities, or those
 * that the user has named.
 *
 * @throws TlsError when the server is not to be trusted or does not speak the protocol
 */
export async function startTls(
  tcp: Deno.TcpConn,
  options: DialOptions,
  signal: AbortSignal,
): Promise<TlsConnection> {
  believeOnly(options.trust);
  const { protocol: wanted = protocol } = options;
  let connection: Deno.Conn<Deno.NetAddr> = tcp;
  const abort = () => closeAtOnce(connection);
  signal.addEventListener("abort", abort);
  try {
    signal.throwIfAborted();
    const tls = await Deno.startTls(tcp, {
      hostname: options.serverName ?? options.hostname,
      caCerts: [...options.trust.authorities],
      alpnProtocols: [wanted],
    });
    connection = tls;
    return await agree(tls, options, [wanted]);
  } catch (error) {
    closeAtOnce(connection);
    if (error instanceof TlsError) throw error;
    if (signal.aborted) throw handshakeTimeout(options, options.handshakeSeconds);
    throw handshakeFailure("client", options, error);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

/**
 * Deno believes `caCerts` besides a store of its own, which it makes of what this variable names
 * when the process first uses it: nothing, where the user has named authorities.
 */
function believeOnly({ authorities }: Trust): void {
  Deno.env.set("DENO_TLS_CA_STORE", authorities.length > 0 ? "" : "system");
}

class DenoListener implements TlsListener {
  #closed = false;
  readonly #listener: Deno.TlsListener;
  readonly #protocols: readonly string[];

  constructor(listener: Deno.TlsListener, protocols: readonly string[]) {
    this.#listener = listener;
    this.#protocols = protocols;
  }

  get address(): Endpoint {
    return endpointOf(this.#listener.addr);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<IncomingConnection> {
    while (!this.#closed) {
      const connection = await this.#accept();
      if (connection) yield new DenoIncomingConnection(connection, this.#protocols);
    }
  }

  async #accept(): Promise<Deno.TlsConn | undefined> {
    try {
      return await this.#listener.accept();
    } catch (error) {
      if (this.#closed || error instanceof Deno.errors.ConnectionAborted) return undefined;
      log.warning("a connection could not be accepted", { reason: errorText(error) });
      await delay(acceptRetryMilliseconds);
      return undefined;
    }
  }

  close(): void {
    this.#closed = true;
    closeQuietly(this.#listener);
  }
}

class DenoIncomingConnection implements IncomingConnection {
  readonly #tls: Deno.TlsConn;
  readonly #protocols: readonly string[];

  constructor(tls: Deno.TlsConn, protocols: readonly string[]) {
    this.#tls = tls;
    this.#protocols = protocols;
  }

  get peerAddress(): Endpoint {
    return endpointOf(this.#tls.remoteAddr);
  }

  async handshake(): Promise<TlsConnection> {
    try {
      return await agree(this.#tls, this.peerAddress, this.#protocols);
    } catch (error) {
      if (error instanceof TlsError) throw error;
      throw handshakeFailure("server", this.peerAddress, error);
    }
  }

  abort(): void {
    closeAtOnce(this.#tls);
  }
}
