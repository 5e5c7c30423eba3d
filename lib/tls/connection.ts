import type { ListenerCredentials } from "./credentials.ts";

/** The application protocol of both sides (ALPN, RFC 7301). */
export const protocol = "verbseal/1";

/** A host by name or address, and a TCP port. */
export interface Endpoint {
  readonly hostname: string;
  readonly port: number;
}

/** `host:port`, with IPv6 addresses in brackets. */
export function endpointText({ hostname, port }: Endpoint): string {
  return hostname.includes(":") ? `[${hostname}]:${port}` : `${hostname}:${port}`;
}

/** What a handshake agreed on, in the names that OpenSSL uses. */
export interface HandshakeFacts {
  /** `TLSv1.2` or `TLSv1.3`. */
  readonly version: string;
  /** Such as `TLS_AES_256_GCM_SHA384`. */
  readonly cipher: string;
  /** An earlier session was resumed: no certificates were exchanged. */
  readonly resumed: boolean;
}

/** A TLS connection after the handshake, whichever library speaks TLS. */
export interface TlsConnection {
  /** What ALPN agreed on: one of the protocols asked for; null where none was asked for. */
  readonly alpn: string | null;
  readonly peerAddress: Endpoint;
  readonly localAddress: Endpoint;
  /** Undefined where the library does not tell: Deno shows nothing of what rustls has agreed on. */
  readonly handshake: HandshakeFacts | undefined;
  /**
   * The peer's certificate and those of its authorities, DER, as far as it has shown them; the
   * handshake has verified them. Empty if it has shown none, or the library does not tell.
   */
  readonly peerCertificates: readonly Uint8Array[];

  /**
   * Reads at most `buffer.length` bytes.
   *
   * @returns how many, or null when the peer has said goodbye or this side has closed
   * @throws TlsError when the connection was lost or its records were tampered with
   */
  read(buffer: Uint8Array): Promise<number | null>;

  /**
   * Writes all of `bytes`, after all that was written before; do not change them meanwhile. What
   * is written in one go, without awaiting, leaves in as few packets as possible.
   *
   * @throws TlsError when the connection was lost or is closed
   */
  write(bytes: Uint8Array): Promise<void>;

  /** Says goodbye, so that all that was written arrives, and closes. Takes a second at most. */
  close(): Promise<void>;

  /** Closes at once. */
  abort(): void;
}

/** Which records of a connection the kernel seals and opens (kTLS), and not this process. */
export interface KernelTls {
  readonly send: boolean;
  readonly receive: boolean;
}

/** As users are told. */
export function kernelText({ send, receive }: KernelTls): string {
  return `tx=${send ? "yes" : "no"} rx=${receive ? "yes" : "no"}`;
}

/** A TLS connection for bulk data. */
export interface DataStream extends Pick<TlsConnection, "read" | "write" | "close" | "abort"> {
  readonly kernel: KernelTls;
  /** Told of the milliseconds for which this thread was busy with it, each time. */
  onWorked?: ((milliseconds: number) => void) | undefined;

  /**
   * Sends part of a file after all that was written before; nothing must be written meanwhile. What
   * the kernel seals goes from its page cache to the network without passing through this process.
   *
   * @param descriptor of the file
   * @param offset in bytes
   * @param length in bytes; the file must be as long
   * @throws TlsError when the connection was lost or is closed, or the file is shorter
   */
  sendFile(descriptor: number, offset: number, length: number): Promise<void>;
}

/** A connection that was accepted, before any TLS. */
export interface IncomingConnection {
  readonly peerAddress: Endpoint;

  /**
   * Does the handshake. A peer may take as long as it likes: {@linkcode abort} ends that.
   *
   * @throws TlsError when it fails, is aborted, or the peer offers none of the protocols; the
   * connection is closed then
   */
  handshake(): Promise<TlsConnection>;

  /** Closes at once. */
  abort(): void;
}

/** Handshakes of a listener so far. */
export interface HandshakeCounts {
  /** That have agreed on everything anew. */
  readonly full: number;
  /** That have resumed an earlier session. */
  readonly resumed: number;
  readonly failed: number;
}

/** Accepts connections until it is closed; no failure of a single connection ends it. */
export interface TlsListener extends AsyncIterable<IncomingConnection> {
  readonly address: Endpoint;
  /** Undefined where the library does not tell which were resumed. */
  readonly handshakes: HandshakeCounts | undefined;

  /**
   * Shows and believes something else, from the first handshake on after this resolves. No
   * connection is lost, neither those that there are nor those that come meanwhile.
   *
   * @throws TlsError when it is of no use; nothing changes then
   */
  update(credentials: ListenerCredentials): Promise<void>;

  /** Accepts no more; connections that were accepted stay. */
  close(): void;
}
