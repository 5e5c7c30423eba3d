import { delay } from "@std/async/delay";
import { lookup } from "node:dns/promises";
import { errorText, TlsError, VerbsealError } from "../errors.ts";
import { logger } from "../telemetry/log.ts";
import {
  type Endpoint,
  endpointText,
  type IncomingConnection,
  protocol,
  type TlsConnection,
  type TlsListener,
} from "./connection.ts";
import { agree, closeAtOnce, closeQuietly, endpointOf } from "./deno_connection.ts";
import { setAcceptedOptions } from "./descriptor.ts";
import { handshakeFailure, handshakeTimeout } from "./failure.ts";
import type { DialOptions, ListenOptions } from "./options.ts";
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

function listenFailure(endpoint: Endpoint, error: unknown): VerbsealError {
  const address = endpointText(endpoint);
  const options = { cause: error };
  if (error instanceof Deno.errors.AddrInUse) {
    return new VerbsealError(
      "port_in_use",
      `Another program listens on ${address} already`,
      "Stop it, or choose another port with --port",
      options,
    );
  }
  if (error instanceof Deno.errors.PermissionDenied) {
    return new VerbsealError(
      "port_forbidden",
      `This user may not listen on ${address}`,
      "Choose a port above 1023 with --port",
      options,
    );
  }
  if (error instanceof Deno.errors.AddrNotAvailable || /lookup address/.test(errorText(error))) {
    return new VerbsealError(
      "address_not_here",
      `${endpoint.hostname} is not an address of this machine`,
      "Choose one that ip address shows, or 0.0.0.0 for all",
      options,
    );
  }
  return new TlsError(
    "listen_failed",
    `Listening on ${address} failed: ${errorText(error)}`,
    "",
    options,
  );
}

/**
 * Connects to a server and checks its certificate. A process keeps to the kind of trust that it
 * first dials with: the system's authorities, or those that the user has named.
 *
 * @throws VerbsealError when the host cannot be reached, TlsError when it is not to be trusted or
 * does not speak `protocol`, the signal's reason when it was aborted
 */
export async function dial(options: DialOptions): Promise<TlsConnection> {
  const timeout = new AbortController();
  const timer = setTimeout(() => timeout.abort(), options.handshakeSeconds * 1000);
  const signal = AbortSignal.any([timeout.signal, ...(options.signal ? [options.signal] : [])]);
  try {
    const tcp = await connect(options, signal);
    return await startTls(tcp, options, signal);
  } catch (error) {
    options.signal?.throwIfAborted();
    if (!timeout.signal.aborted || error instanceof TlsError) throw error;
    const what = `did not answer within ${options.handshakeSeconds} seconds`;
    throw connectFailure(options, "connect_timeout", what, error);
  } finally {
    clearTimeout(timer);
  }
}

/** Tries the addresses of the host in turn: Deno.connect itself tries the first only. */
async function connect(options: DialOptions, signal: AbortSignal): Promise<Deno.TcpConn> {
  let failure: unknown;
  for (const hostname of await addressesOf(options, signal)) {
    try {
      const tcp = await Deno.connect({ hostname, port: options.port, signal });
      tcp.setNoDelay(true);
      tcp.setKeepAlive(true);
      return tcp;
    } catch (error) {
      signal.throwIfAborted();
      failure = error;
    }
  }
  const [code, what] = failure instanceof Deno.errors.ConnectionRefused
    ? ["connection_refused", "refuses the connection"]
    : ["connection_failed", `cannot be reached: ${errorText(failure)}`];
  throw connectFailure(options, code, what, failure);
}

async function addressesOf({ hostname }: Endpoint, signal: AbortSignal): Promise<string[]> {
  const aborted = new Promise<never>((_resolve, reject) =>
    signal.addEventListener("abort", () => reject(signal.reason), { once: true })
  );
  try {
    const found = await Promise.race([lookup(hostname, { all: true }), aborted]);
    return found.map(({ address }) => address);
  } catch (error) {
    signal.throwIfAborted();
    throw new VerbsealError(
      "host_not_found",
      `The host ${hostname} is not known`,
      "Check its name, or give its IP address",
      { cause: error },
    );
  }
}

function connectFailure(peer: Endpoint, code: string, what: string, cause: unknown) {
  return new VerbsealError(
    code,
    `${endpointText(peer)} ${what}`,
    "Check host, port and firewall, and that the server runs",
    { cause },
  );
}

async function startTls(
  tcp: Deno.TcpConn,
  options: DialOptions,
  signal: AbortSignal,
): Promise<TlsConnection> {
  believeOnly(options.trust);
  const { protocol: wanted = protocol, identity } = options;
  let connection: Deno.Conn<Deno.NetAddr> = tcp;
  const abort = () => closeAtOnce(connection);
  signal.addEventListener("abort", abort);
  try {
    signal.throwIfAborted();
    const tls = await Deno.startTls(tcp, {
      hostname: options.serverName ?? options.hostname,
      caCerts: [...options.trust.authorities],
      alpnProtocols: [wanted],
      ...(identity ? { cert: identity.certificate, key: identity.key } : {}),
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
