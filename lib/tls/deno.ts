import { errorText, TlsError } from "../errors.ts";
import { logger } from "../telemetry/log.ts";
import { AcceptRetries } from "./accept_retries.ts";
import {
  type Endpoint,
  type IncomingConnection,
  protocol,
  type TlsConnection,
  type TlsListener,
} from "./connection.ts";
import { agree, closeAtOnce } from "./deno_connection.ts";
import { descriptorOf, setAcceptedOptions } from "./descriptor.ts";
import { handshakeFailure } from "./deno_failure.ts";
import { handshakeTimeout } from "./failure.ts";
import { successorOf } from "./handover.ts";
import type { ListenerCredentials } from "./credentials.ts";
import type { DialOptions, ListenOptions } from "./options.ts";
import { closeQuietly, endpointOf, listenFailure } from "./tcp.ts";
import type { Identity, Trust } from "./trust.ts";

const log = logger("tls");

/**
 * How long a listener that another has succeeded still accepts what had begun before, in
 * milliseconds: a SYN that was answered is confirmed or lost within that time.
 */
const successionMilliseconds = 3000;

/**
 * Listens for TLS connections; rustls speaks TLS 1.2 and 1.3 only.
 *
 * @param options.port 0 lets the system choose
 * @throws VerbsealError when the address cannot be had, TlsError when the identity is of no use
 */
export function listen(options: ListenOptions): TlsListener {
  warnOfKeyLog();
  try {
    const listener = listenAt(options, options.identity);
    setAcceptedOptions(descriptorOf(listener.addr)!);
    return new DenoListener(listener, options);
  } catch (error) {
    throw listenFailure(options, error);
  }
}

function listenAt(
  { hostname, port, protocols = [protocol] }: ListenOptions,
  { certificate, key }: Identity,
  succession: { readonly port: number; readonly reusePort: true } | undefined = undefined,
): Deno.TlsListener {
  return Deno.listenTls({
    hostname,
    port,
    cert: certificate,
    key,
    ...(protocols.length > 0 ? { alpnProtocols: [...protocols] } : {}),
    ...succession,
  });
}

/**
 * Does the handshake of {@linkcode dial} on a TCP connection, which is closed if that fails. It has
 * no certificate for a server that asks for one. A process keeps to the kind of trust that it first
 * dials with: the system's authorities, or those that the user has named.
 *
 * @throws TlsError when the server is not to be trusted or does not speak the protocol
 */
export async function startTls(
  tcp: Deno.TcpConn,
  options: DialOptions,
  signal: AbortSignal,
): Promise<TlsConnection> {
  believeOnly(options.trust);
  warnOfKeyLog();
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
    return await agree(tls, "client", options, [wanted]);
  } catch (error) {
    closeAtOnce(connection);
    if (error instanceof TlsError) throw error;
    if (signal.aborted) throw handshakeTimeout(options, options.handshakeSeconds);
    throw handshakeFailure("client", options, error);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

let warnedOfKeyLog = false;

/** rustls does what this variable asks, as many libraries do; nobody is to leave it set unawares. */
function warnOfKeyLog(): void {
  const file = Deno.env.get("SSLKEYLOGFILE");
  if (file === undefined || file === "" || warnedOfKeyLog) return;
  warnedOfKeyLog = true;
  log.warning("whoever reads this file can read all that is sent here, sealed records too", {
    file,
    remedy: "unset SSLKEYLOGFILE, and remove the file",
  });
}

/**
 * Deno believes `caCerts` besides a store of its own, which it makes of what this variable names
 * when the process first uses it: nothing, where the user has named authorities.
 */
function believeOnly({ authorities }: Trust): void {
  Deno.env.set("DENO_TLS_CA_STORE", authorities.length > 0 ? "" : "system");
  // What this one names would be believed as well.
  Deno.env.delete("DENO_CERT");
}

class DenoListener implements TlsListener {
  readonly handshakes = undefined;
  readonly #options: ListenOptions;
  #listener: Deno.TlsListener;
  /** The one that this one has succeeded, for as long as connections may wait in it. */
  #former: Deno.TlsListener | undefined;
  #retire = () => {};
  #succession: Promise<void> = Promise.resolve();
  /** Of each, what settles when it is accepted from no longer. */
  readonly #accepting = new WeakMap<Deno.TlsListener, Promise<void>>();
  readonly #accepted: Deno.TlsConn[] = [];
  #arrival = Promise.withResolvers<void>();
  #iterating = false;
  readonly #retries = new AcceptRetries();
  #closed = false;

  /** @param listener this listener's from now on */
  constructor(listener: Deno.TlsListener, options: ListenOptions) {
    this.#listener = listener;
    this.#options = options;
  }

  get address(): Endpoint {
    return endpointOf(this.#listener.addr);
  }

  /** rustls has one certificate for a listener, so another listener succeeds this one; one at a time. */
  async update({ identity }: ListenerCredentials): Promise<void> {
    await this.#succession;
    if (this.#closed) return;
    const former = this.#listener;
    this.#listener = successorOf(former, (options) => listenAt(this.#options, identity, options));
    if (this.#iterating) this.#beginToAcceptFrom(this.#listener);
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#succession = promise;
    const timer = setTimeout(() => this.#retire(), successionMilliseconds);
    this.#retire = () => {
      clearTimeout(timer);
      this.#former = undefined;
      closeQuietly(former);
      // Until then the kernel still has it, and would count it among those of the next succession.
      Promise.resolve(this.#accepting.get(former)).then(resolve);
    };
    this.#former = former;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<IncomingConnection> {
    this.#iterating = true;
    if (this.#former) this.#beginToAcceptFrom(this.#former);
    this.#beginToAcceptFrom(this.#listener);
    while (!this.#closed) {
      const tls = this.#accepted.shift();
      if (tls) yield new DenoIncomingConnection(tls, this.#options.protocols);
      else await this.#arrival.promise;
    }
  }

  #beginToAcceptFrom(listener: Deno.TlsListener): void {
    this.#accepting.set(listener, this.#acceptFrom(listener));
  }

  /** Accepts until the listener is closed; who iterates takes what comes at once. */
  async #acceptFrom(listener: Deno.TlsListener): Promise<void> {
    while (listener === this.#listener || listener === this.#former) {
      try {
        this.#accepted.push(await listener.accept());
        this.#retries.succeeded();
        this.#wake();
      } catch (error) {
        if (error instanceof Deno.errors.BadResource || this.#closed) return;
        if (error instanceof Deno.errors.ConnectionAborted) continue;
        await this.#retries.failed(errorText(error));
      }
    }
  }

  #wake(): void {
    this.#arrival.resolve();
    this.#arrival = Promise.withResolvers<void>();
  }

  close(): void {
    this.#closed = true;
    closeQuietly(this.#listener);
    this.#retire();
    for (const tls of this.#accepted.splice(0)) closeAtOnce(tls);
    this.#wake();
  }
}

class DenoIncomingConnection implements IncomingConnection {
  readonly #tls: Deno.TlsConn;
  readonly #protocols: readonly string[];

  constructor(tls: Deno.TlsConn, protocols: readonly string[] = [protocol]) {
    this.#tls = tls;
    this.#protocols = protocols;
  }

  get peerAddress(): Endpoint {
    return endpointOf(this.#tls.remoteAddr);
  }

  async handshake(): Promise<TlsConnection> {
    try {
      return await agree(this.#tls, "server", this.peerAddress, this.#protocols);
    } catch (error) {
      if (error instanceof TlsError) throw error;
      throw handshakeFailure("server", this.peerAddress, error);
    }
  }

  abort(): void {
    closeAtOnce(this.#tls);
  }
}
