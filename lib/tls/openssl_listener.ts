import { delay } from "@std/async/delay";
import { constants } from "node:os";
import { forget, readableSoon } from "../../ffi/epoll.ts";
import { C, check, errno, errnoName, libc } from "../../ffi/libc.ts";
import { libssl } from "../../ffi/libssl.ts";
import { AcceptRetries } from "./accept_retries.ts";
import {
  type Endpoint,
  type HandshakeCounts,
  type IncomingConnection,
  protocol,
  type TlsConnection,
  type TlsListener,
} from "./connection.ts";
import type { KnownRefusal, ListenerCredentials } from "./credentials.ts";
import { openDescriptor, setAcceptedOptions } from "./descriptor.ts";
import { connectionClosed } from "./failure.ts";
import { lingerMilliseconds, type OpensslConnection, TlsSocket } from "./openssl_connection.ts";
import { TlsContext } from "./openssl_context.ts";
import { agreed, shakeHands } from "./openssl_handshake.ts";
import { TicketKeys } from "./openssl_tickets.ts";
import type { ListenOptions } from "./options.ts";
import { closeQuietly, endpointOf, endpointOfSocket, listenFailure } from "./tcp.ts";

/** Connections accepted in a row before others have their turn. */
const acceptBatch = 64;

/** What accept(2) fails with for reasons of the one connection. */
const passing: readonly number[] = [
  constants.errno.ECONNABORTED,
  constants.errno.EINTR,
  constants.errno.EPROTO,
];

/**
 * Listens for TLS connections; libssl speaks TLS. One thread has them all, without blocking.
 *
 * @param options.port 0 lets the system choose
 * @throws VerbsealError when the address cannot be had, TlsError when the identity is of no use
 */
export function listen(options: ListenOptions): TlsListener {
  const { hostname, port } = options;
  const context = contextFor(options);
  try {
    const listener = Deno.listen({ hostname, port });
    setAcceptedOptions(openDescriptor(listener.addr));
    return new OpensslListener(listener, context, options);
  } catch (error) {
    context[Symbol.dispose]();
    throw listenFailure(options, error);
  }
}

function contextFor(options: ListenOptions): TlsContext {
  return TlsContext.server({ ...options, protocols: protocolsOf(options) });
}

function protocolsOf({ protocols = [protocol] }: ListenOptions): readonly string[] {
  return protocols;
}
/** What a connection asks of its listener. */
interface Acceptor {
  readonly closed: boolean;
  /** SSL_CTX of the moment. */
  readonly context: Deno.PointerObject;
  readonly protocols: readonly string[];
  readonly knownRefusal: KnownRefusal | undefined;
  count(outcome: keyof HandshakeCounts): void;
}

class OpensslListener implements TlsListener, Acceptor {
  readonly handshakes = { full: 0, resumed: 0, failed: 0 };
  readonly #descriptor: number;
  readonly #address = new Uint8Array(128);
  readonly #length = new Uint32Array(1);
  #context: TlsContext;
  #ticketKeys: TicketKeys;
  #knownRefusal: KnownRefusal | undefined;
  readonly #retries = new AcceptRetries();
  #closed = false;

  /** @param listener this listener's from now on, as is the context */
  constructor(
    private readonly listener: Deno.TcpListener,
    context: TlsContext,
    private readonly options: ListenOptions,
  ) {
    this.#context = context;
    this.#ticketKeys = new TicketKeys(context.pointer);
    this.#knownRefusal = options.knownRefusal;
    this.#descriptor = openDescriptor(listener.addr);
  }

  get address(): Endpoint {
    return endpointOf(this.listener.addr);
  }

  get closed(): boolean {
    return this.#closed;
  }

  get context(): Deno.PointerObject {
    this.#ticketKeys.renew();
    return this.#context.pointer;
  }

  get knownRefusal(): KnownRefusal | undefined {
    return this.#knownRefusal;
  }

  get protocols(): readonly string[] {
    return protocolsOf(this.options);
  }

  count(outcome: keyof HandshakeCounts): void {
    this.handshakes[outcome] += 1;
  }

  /** Sessions of before cannot be resumed: their tickets are the old context's. */
  // deno-lint-ignore require-await -- Deno's listener takes its time
  async update(credentials: ListenerCredentials): Promise<void> {
    if (this.#closed) return;
    const { clientAuthentication: _, staple: _staple, ...kept } = this.options;
    const context = contextFor({ ...kept, ...credentials });
    this.#context[Symbol.dispose]();
    this.#context = context;
    this.#ticketKeys = new TicketKeys(context.pointer);
    this.#knownRefusal = credentials.knownRefusal;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<IncomingConnection> {
    for (let count = 1; !this.#closed; count++) {
      const descriptor = this.#accept();
      if (descriptor >= 0) {
        this.#retries.succeeded();
        yield new OpensslIncomingConnection(descriptor, endpointOfSocket(this.#address), this);
        if (count % acceptBatch === 0) await delay(0);
      } else if (errno() === constants.errno.EAGAIN) {
        await readableSoon(this.#descriptor);
      } else if (!passing.includes(errno())) {
        await this.#retries.failed(errnoName(errno()));
      }
    }
  }

  #accept(): number {
    this.#length[0] = this.#address.length;
    const flags = C.SOCK_NONBLOCK | C.SOCK_CLOEXEC;
    return libc().accept4(this.#descriptor, this.#address, this.#length, flags);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    forget(this.#descriptor);
    closeQuietly(this.listener);
    this.#context[Symbol.dispose]();
  }
}

class OpensslIncomingConnection implements IncomingConnection {
  #socket: TlsSocket | undefined;
  #ended = false;

  /**
   * @param descriptor this connection's from now on
   */
  constructor(
    private readonly descriptor: number,
    readonly peerAddress: Endpoint,
    private readonly listener: Acceptor,
  ) {}

  async handshake(): Promise<TlsConnection> {
    if (!this.#ended && this.listener.closed) this.abort();
    if (this.#ended) throw connectionClosed(this.peerAddress);
    this.#ended = true;
    const socket = this.#socket = TlsSocket.create(this.listener.context, this.descriptor);
    try {
      const connection = await this.#shakeHands(socket);
      this.listener.count(connection.handshake.resumed ? "resumed" : "full");
      return connection;
    } catch (error) {
      this.listener.count("failed");
      await socket.drain(lingerMilliseconds);
      throw error;
    }
  }

  async #shakeHands(socket: TlsSocket): Promise<OpensslConnection> {
    const local = localEndpoint(this.descriptor);
    libssl().SSL_set_accept_state(socket.ssl);
    const { knownRefusal } = this.listener;
    await shakeHands(socket, "server", this.peerAddress, { knownRefusal });
    return agreed(socket, "server", local, this.peerAddress, this.listener.protocols);
  }

  abort(): void {
    if (this.#socket) return this.#socket[Symbol.dispose]();
    if (this.#ended) return;
    this.#ended = true;
    libc().close(this.descriptor);
  }
}

const localAddress = new Uint8Array(128);

function localEndpoint(descriptor: number): Endpoint {
  const length = Uint32Array.of(localAddress.length);
  check("getsockname", libc().getsockname(descriptor, localAddress, length));
  return endpointOfSocket(localAddress);
}
