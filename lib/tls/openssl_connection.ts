import { forget, readable, writable } from "../../ffi/epoll.ts";
import { addressOf, pointerAt } from "../../ffi/layout.ts";
import { C, errno, libc } from "../../ffi/libc.ts";
import { libcrypto } from "../../ffi/libcrypto.ts";
import { libssl, SSL } from "../../ffi/libssl.ts";
import { Memory } from "../../ffi/memory.ts";
import { constants } from "node:os";
import { setImmediate } from "node:timers/promises";
import { TlsError } from "../errors.ts";
import type {
  DataStream,
  Endpoint,
  HandshakeFacts,
  KernelTls,
  TlsConnection,
} from "./connection.ts";
import { connectionClosed, type Side } from "./failure.ts";
import { clearErrors, type OpensslFailure, takeError } from "./openssl_error.ts";
import { lostConnection } from "./openssl_failure.ts";
import { peerCertificatesOf } from "./openssl_chain.ts";
import { WriteQueue } from "./write_queue.ts";

/** How long a polite end waits for the peer's, in milliseconds. */
export const lingerMilliseconds = 1000;

/** Where bytes go that nobody looks at. */
const passedBy = new Uint8Array(4096);

/** Bytes that one call seals or opens at most. */
const MOST = 2 ** 18;

/** How long this thread may go on without looking for events, in milliseconds. */
const turnMilliseconds = 10;

/** When this thread has come from such a look last. */
let turnBegan = 0;

/** Where bytes are always there, nothing is waited for: others would have no turn. */
function isTurnOver(): boolean {
  return performance.now() - turnBegan > turnMilliseconds;
}

async function giveWay(): Promise<void> {
  await setImmediate();
  turnBegan = performance.now();
}

/**
 * Why a call of libssl ended the connection. No Error: whoever catches it makes one that says more,
 * and a trace of the stack costs a twentieth of a resumed handshake.
 */
export class CallFailure {
  /**
   * @param goodbye the peer has said goodbye
   * @param error as libssl has it
   */
  constructor(readonly goodbye: boolean, readonly error: OpensslFailure | undefined) {}
}

/** An SSL on a non-blocking socket, owned together: both end when it is disposed, once. */
export class TlsSocket implements Disposable {
  /** Told of the milliseconds that each call took. */
  onWorked: DataStream["onWorked"];
  #ended = false;
  #draining = false;

  /**
   * @param descriptor of a connected, non-blocking socket
   * @param release closes it
   */
  private constructor(
    readonly ssl: Deno.PointerObject,
    readonly descriptor: number,
    private readonly release: Disposable,
  ) {}

  /** The socket of another thread, detached there. */
  static of(ssl: Deno.PointerObject, descriptor: number): TlsSocket {
    return new TlsSocket(ssl, descriptor, closing(descriptor));
  }

  /** An SSL that is new, made of an SSL_CTX. */
  static create(
    context: Deno.PointerObject,
    descriptor: number,
    release = closing(descriptor),
  ): TlsSocket {
    const ssl = libssl().SSL_new(context);
    if (ssl === null) {
      release[Symbol.dispose]();
      throw new TlsError(
        "openssl",
        "OpenSSL has no memory for another connection",
        "let the process have more, or fewer clients: see --max-clients and --max-message-clients",
      );
    }
    libssl().SSL_set_fd(ssl, descriptor);
    return new TlsSocket(ssl, descriptor, release);
  }

  get ended(): boolean {
    return this.#ended;
  }

  /**
   * Calls libssl until it is done, waiting for the socket in between.
   *
   * @param call gives something positive when it is done
   * @param whenReadable waits for what the call wants to read
   * @returns what `call` gave, or undefined when this side has ended the connection meanwhile
   * @throws CallFailure when the connection has ended otherwise
   */
  async run(call: () => number, whenReadable = readable): Promise<number | undefined> {
    for (;;) {
      if (isTurnOver()) await giveWay();
      if (this.#ended || this.#draining) return undefined;
      clearErrors();
      const { onWorked } = this;
      const started = onWorked ? performance.now() : 0;
      const result = call();
      onWorked?.(performance.now() - started);
      if (result > 0) return result;
      await this.#wait(result, whenReadable);
    }
  }

  async #wait(result: number, whenReadable: typeof readable): Promise<void> {
    const error = libssl().SSL_get_error(this.ssl, result);
    if (error === SSL.SSL_ERROR_WANT_READ) await whenReadable(this.descriptor);
    else if (error === SSL.SSL_ERROR_WANT_WRITE) await writable(this.descriptor);
    else throw failureOf(error);
    turnBegan = performance.now();
  }

  /** Lets go of both, without ending them. */
  detach(): { readonly ssl: bigint; readonly descriptor: number } {
    this.#ended = true;
    forget(this.descriptor);
    return { ssl: addressOf(this.ssl), descriptor: this.descriptor };
  }

  /**
   * Says no more, and listens until the peer has closed or `milliseconds` have passed: a socket
   * closed with bytes unread resets the connection, and the peer may lose the last that was written
   * to it (RFC 1122, section 4.2.2.13).
   */
  async drain(milliseconds: number): Promise<void> {
    // The descriptor may be another's by now.
    if (this.#ended) return;
    const timer = setTimeout(() => this[Symbol.dispose](), milliseconds);
    this.#draining = true;
    libc().shutdown(this.descriptor, C.SHUT_WR);
    while (!this.#ended) {
      const count = libc().recv(this.descriptor, passedBy, BigInt(passedBy.length), 0);
      if (count === 0n) break;
      if (count < 0n && errno() !== constants.errno.EAGAIN) break;
      if (count < 0n) await readable(this.descriptor);
      else if (isTurnOver()) await giveWay();
    }
    clearTimeout(timer);
    this[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    if (this.#ended) return;
    this.#ended = true;
    forget(this.descriptor);
    libssl().SSL_free(this.ssl);
    this.release[Symbol.dispose]();
  }
}

function closing(descriptor: number): Disposable {
  return { [Symbol.dispose]: () => libc().close(descriptor) };
}

function fileTooShort(end: number): TlsError {
  return new TlsError("file_changed", `A file ends at ${end} that was longer before`);
}

function failureOf(error: number): CallFailure {
  return new CallFailure(error === SSL.SSL_ERROR_ZERO_RETURN, takeError());
}

/** A connection on its way to another thread: plain data. Who has it must attach or lose it. */
export interface DetachedConnection {
  readonly ssl: bigint;
  readonly descriptor: number;
  readonly side: Side;
  readonly localAddress: Endpoint;
  readonly peerAddress: Endpoint;
}

/** A TLS connection of libssl after the handshake. */
export class OpensslConnection implements TlsConnection, DataStream {
  readonly alpn: string | null;
  readonly handshake: HandshakeFacts;
  readonly peerCertificates: readonly Uint8Array[];
  readonly #socket: TlsSocket;
  readonly #writes: WriteQueue;
  #failure: TlsError | undefined;

  /** @param socket after the handshake; this connection's from now on */
  constructor(
    socket: TlsSocket,
    private readonly side: Side,
    readonly localAddress: Endpoint,
    readonly peerAddress: Endpoint,
  ) {
    if (socket.ended) throw connectionClosed(peerAddress);
    this.#socket = socket;
    this.alpn = alpnOf(socket.ssl);
    this.handshake = factsOf(socket.ssl);
    this.peerCertificates = peerCertificatesOf(socket.ssl);
    const { SSL_write } = libssl();
    this.#writes = new WriteQueue(async (bytes) => {
      const length = Math.min(bytes.length, MOST);
      const written = await socket.run(() => SSL_write(socket.ssl, view(bytes), length));
      if (written === undefined) throw connectionClosed(this.peerAddress);
      return written;
    });
  }

  /**
   * The connection in this thread.
   *
   * @param detached from {@linkcode detach}, once
   */
  static attach(detached: DetachedConnection): OpensslConnection {
    const { ssl, descriptor, side, localAddress, peerAddress } = detached;
    const socket = TlsSocket.of(pointerAt(ssl)!, descriptor);
    return new OpensslConnection(socket, side, localAddress, peerAddress);
  }

  /**
   * Gives an accepted connection up, for another thread to go on with it. Nothing must be read or
   * written at the time; afterwards this object is as good as closed.
   */
  detach(): DetachedConnection {
    const { side, localAddress, peerAddress } = this;
    return { ...this.#socket.detach(), side, localAddress, peerAddress };
  }

  set onWorked(worked: DataStream["onWorked"]) {
    this.#socket.onWorked = worked;
  }

  get kernel(): KernelTls {
    const { SSL_get_wbio, SSL_get_rbio } = libssl();
    const { BIO_ctrl } = libcrypto();
    const { ssl, ended } = this.#socket;
    if (ended) return { send: false, receive: false };
    return {
      send: BIO_ctrl(SSL_get_wbio(ssl), SSL.BIO_CTRL_GET_KTLS_SEND, 0n, null) > 0n,
      receive: BIO_ctrl(SSL_get_rbio(ssl), SSL.BIO_CTRL_GET_KTLS_RECV, 0n, null) > 0n,
    };
  }

  async sendFile(descriptor: number, offset: number, length: number): Promise<void> {
    try {
      await this.#writes.written;
      if (this.kernel.send) await this.#sendFromCache(descriptor, offset, length);
      else await this.#readAndWrite(descriptor, offset, length);
    } catch (error) {
      throw this.#lost(error);
    }
  }

  async #sendFromCache(descriptor: number, offset: number, length: number): Promise<void> {
    const { SSL_sendfile } = libssl();
    for (let sent = 0; sent < length;) {
      const at = BigInt(offset + sent);
      const count = BigInt(Math.min(MOST, length - sent));
      const result = await this.#socket.run(() =>
        Number(SSL_sendfile(this.#socket.ssl, descriptor, at, count, 0))
      );
      if (result === undefined) throw connectionClosed(this.peerAddress);
      sent += result;
    }
  }

  async #readAndWrite(descriptor: number, offset: number, length: number): Promise<void> {
    using memory = new Memory(Math.min(MOST, length));
    for (let sent = 0; sent < length;) {
      const count = BigInt(Math.min(memory.length, length - sent));
      const read = await libc()
        .preadAsync(descriptor, memory.pointer, count, BigInt(offset + sent));
      if (read <= 0n) throw fileTooShort(offset + sent);
      await this.write(memory.bytes.subarray(0, Number(read)));
      sent += Number(read);
    }
  }

  async read(buffer: Uint8Array): Promise<number | null> {
    const { SSL_read } = libssl();
    const length = Math.min(buffer.length, MOST);
    try {
      return await this.#socket.run(() => SSL_read(this.#socket.ssl, view(buffer), length)) ??
        null;
    } catch (error) {
      if (error instanceof CallFailure && error.goodbye) return null;
      throw this.#lost(error);
    }
  }

  async write(bytes: Uint8Array): Promise<void> {
    if (this.#socket.ended) throw connectionClosed(this.peerAddress);
    try {
      await this.#writes.write(bytes);
    } catch (error) {
      throw this.#lost(error);
    }
  }

  async close(): Promise<void> {
    if (this.#socket.ended) return;
    const timer = setTimeout(() => this.abort(), lingerMilliseconds);
    try {
      await this.#writes.written;
      await this.#sayGoodbye();
    } catch {
      // The peer is gone already.
    }
    clearTimeout(timer);
    await this.#socket.drain(lingerMilliseconds);
  }

  abort(): void {
    this.#socket[Symbol.dispose]();
  }

  async #sayGoodbye(): Promise<void> {
    // After a fatal error libssl must not be asked for it (SSL_shutdown(3)).
    if (this.#failure) return;
    const { SSL_shutdown } = libssl();
    // 0: said, and not answered yet.
    await this.#socket.run(() => {
      const result = SSL_shutdown(this.#socket.ssl);
      return result === 0 ? 1 : result;
    });
  }

  /** The first failure explains those that follow it. */
  #lost(cause: unknown): TlsError {
    if (this.#socket.ended) return this.#failure ?? connectionClosed(this.peerAddress, cause);
    if (cause instanceof TlsError) return cause;
    const error = (cause instanceof CallFailure ? cause.error : undefined) ?? this.#lastWords();
    const { side, handshake: { version }, peerAddress } = this;
    return this.#failure ??= lostConnection(side, version, peerAddress, error, cause);
  }

  /** Where writing fails, an alert may be there that says why, or bytes that are still to be read. */
  #lastWords(): OpensslFailure | undefined {
    clearErrors();
    const buffer = new Uint8Array(1);
    return libssl().SSL_peek(this.#socket.ssl, buffer, 1) > 0 ? undefined : takeError();
  }
}

/** FFI takes views of ArrayBuffers only, which is all that there is here. */
function view(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  return bytes as Uint8Array<ArrayBuffer>;
}

function textAt(pointer: Deno.PointerValue): string {
  return pointer === null ? "" : Deno.UnsafePointerView.getCString(pointer);
}

function factsOf(ssl: Deno.PointerObject): HandshakeFacts {
  const { SSL_get_version, SSL_get_current_cipher, SSL_CIPHER_get_name, SSL_session_reused } =
    libssl();
  return {
    version: textAt(SSL_get_version(ssl)),
    cipher: textAt(SSL_CIPHER_get_name(SSL_get_current_cipher(ssl))),
    resumed: SSL_session_reused(ssl) === 1,
  };
}

const alpnData = new BigUint64Array(1);
const alpnLength = new Uint32Array(1);

function alpnOf(ssl: Deno.PointerObject): string | null {
  libssl().SSL_get0_alpn_selected(ssl, alpnData, alpnLength);
  const pointer = pointerAt(alpnData[0]!);
  if (pointer === null) return null;
  const name = new Uint8Array(Deno.UnsafePointerView.getArrayBuffer(pointer, alpnLength[0]!));
  return new TextDecoder().decode(name);
}
