import { lastingCallback } from "../../ffi/callback.ts";
import { addressOf, cString, pointerAt } from "../../ffi/layout.ts";
import { libcrypto } from "../../ffi/libcrypto.ts";
import { libssl, SSL } from "../../ffi/libssl.ts";
import { TlsError } from "../errors.ts";
import { clearErrors, takeError } from "./openssl_error.ts";
import { staple } from "./openssl_stapling.ts";
import { verifyTickets } from "./openssl_tickets.ts";
import type { ClientAuthentication } from "./credentials.ts";
import type { TlsSettings } from "./options.ts";
import { verifierFor, verifyAuthorities } from "./openssl_verification.ts";
import { isPkcs11Uri } from "./pkcs11_uri.ts";
import { openTokenKey } from "./token_key.ts";
import type { Identity, Trust } from "./trust.ts";
import { CryptoObject } from "./x509.ts";

/** Suites with forward secrecy and authenticated encryption: of TLS 1.3, and of TLS 1.2 (RFC 9325, section 4.2). */
export const strongCiphers: readonly string[] = [
  "TLS_AES_256_GCM_SHA384",
  "TLS_CHACHA20_POLY1305_SHA256",
  "TLS_AES_128_GCM_SHA256",
  "ECDHE-ECDSA-AES256-GCM-SHA384",
  "ECDHE-RSA-AES256-GCM-SHA384",
  "ECDHE-ECDSA-CHACHA20-POLY1305",
  "ECDHE-RSA-CHACHA20-POLY1305",
  "ECDHE-ECDSA-AES128-GCM-SHA256",
  "ECDHE-RSA-AES128-GCM-SHA256",
];

/** What the kernel seals with: AES-256-GCM (Documentation/networking/tls.rst of Linux). */
const kernelCiphers = strongCiphers.filter((name) => /AES.?256.GCM/.test(name));

/** MNNFFPPS of OpenSSL_version_num(3). */
const OPENSSL_3_2 = 0x30200000n;

/** Authorities between a certificate and a root at most. */
const CHAIN_DEPTH = 5;

/** What all connections of a listener, or one dialled connection, have in common. */
export interface ContextOptions {
  readonly identity?: Identity | undefined;
  readonly settings?: TlsSettings | undefined;
}

/**
 * An SSL_CTX. Connections made of it hold it too: it may be disposed before them.
 */
export class TlsContext implements Disposable {
  readonly pointer: Deno.PointerObject;
  readonly #owned = new DisposableStack();

  private constructor(side: "server" | "client", options: ContextOptions) {
    clearErrors();
    const { TLS_server_method, TLS_client_method, SSL_CTX_new } = libssl();
    const method = side === "server" ? TLS_server_method() : TLS_client_method();
    const pointer = SSL_CTX_new(method);
    if (pointer === null) throw refusedBy("a context (SSL_CTX_new)", lookAtConfiguration);
    this.pointer = pointer;
    try {
      this.#configure(options);
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /**
   * For a listener.
   *
   * @param options.protocols for ALPN; if there are none, clients need not offer any
   * @param options.staple the OCSP response on the identity at any time, DER
   * @param options.kernelProtocol the one of them whose connections the kernel seals, where it can
   * @throws TlsError when libssl refuses the identity, or what else was asked for
   */
  static server(
    options: ContextOptions & {
      readonly identity: Identity;
      readonly clientAuthentication?: ClientAuthentication | undefined;
      readonly protocols: readonly string[];
      readonly kernelProtocol?: string | undefined;
      readonly staple?: (() => Uint8Array<ArrayBuffer> | undefined) | undefined;
    },
  ): TlsContext {
    const context = new TlsContext("server", options);
    try {
      context.#selectProtocol(options.protocols, options.kernelProtocol);
      context.#askForCertificate(options.clientAuthentication);
      if (options.staple) context.#owned.use(staple(context.pointer, options.staple));
      return context;
    } catch (error) {
      context[Symbol.dispose]();
      throw error;
    }
  }

  /**
   * For a connection to a server.
   *
   * @param options.trust without it every server passes whose certificate is in its time, for its
   * key to be looked at
   * @throws TlsError when libssl refuses the identity, or what else was asked for
   */
  static client(
    options: ContextOptions & {
      readonly trust: Trust | undefined;
      readonly kernel?: "preferred" | "allowed" | undefined;
    },
  ): TlsContext {
    const context = new TlsContext("client", options);
    try {
      if (options.kernel) context.#letKernelSeal();
      if (options.kernel === "preferred") context.#offerKernelSuites(options.settings);
      const { trust } = options;
      if (trust) context.#believe(trust);
      const verify = verifierFor(trust);
      libssl().SSL_CTX_set_verify(context.pointer, SSL.SSL_VERIFY_PEER, verify);
      return context;
    } catch (error) {
      context[Symbol.dispose]();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
    libssl().SSL_CTX_free(this.pointer);
  }

  #configure({ identity, settings = {} }: ContextOptions): void {
    const { SSL_CTX_ctrl, SSL_CTX_set_options, SSL_CTX_set_verify_depth } = libssl();
    const least = settings.minVersion === "1.3" ? SSL.TLS1_3_VERSION : SSL.TLS1_2_VERSION;
    this.#control(SSL.SSL_CTRL_SET_MIN_PROTO_VERSION, least);
    const mode = SSL.SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL.SSL_MODE_RELEASE_BUFFERS;
    SSL_CTX_ctrl(this.pointer, SSL.SSL_CTRL_MODE, BigInt(mode), null);
    // Else one SSL_read() goes on for as long as KeyUpdates come in, and nobody else has a turn.
    SSL_CTX_ctrl(this.pointer, SSL.SSL_CTRL_CLEAR_MODE, BigInt(SSL.SSL_MODE_AUTO_RETRY), null);
    const options = SSL.SSL_OP_NO_RENEGOTIATION | SSL.SSL_OP_CIPHER_SERVER_PREFERENCE;
    SSL_CTX_set_options(this.pointer, BigInt(options));
    SSL_CTX_set_verify_depth(this.pointer, CHAIN_DEPTH);
    this.#allow(settings.ciphers ?? strongCiphers);
    if (identity) this.#present(identity);
  }

  #letKernelSeal(): void {
    libssl().SSL_CTX_set_options(this.pointer, BigInt(SSL.SSL_OP_ENABLE_KTLS));
  }

  /** OpenSSL before 3.2 has the kernel open records of TLS 1.2 only; so that, where it is allowed. */
  #offerKernelSuites({ minVersion, ciphers = kernelCiphers }: TlsSettings = {}): void {
    const sealing = kernelCiphers.filter((name) =>
      ciphers.includes(name) && (minVersion !== "1.3" || name.startsWith("TLS_"))
    );
    if (sealing.length === 0) return;
    this.#allow(sealing);
    const older = sealing.some((name) => !name.startsWith("TLS_"));
    if (older && libcrypto().OpenSSL_version_num() < OPENSSL_3_2) {
      this.#control(SSL.SSL_CTRL_SET_MAX_PROTO_VERSION, SSL.TLS1_2_VERSION);
    }
  }

  #control(command: number, value: number): void {
    if (libssl().SSL_CTX_ctrl(this.pointer, command, BigInt(value), null) !== 1n) {
      throw refusedBy("the TLS version (SSL_CTX_ctrl)", lookAtConfiguration);
    }
  }

  #allow(ciphers: readonly string[]): void {
    const { SSL_CTX_set_cipher_list, SSL_CTX_set_ciphersuites } = libssl();
    const modern = ciphers.filter((name) => name.startsWith("TLS_"));
    const older = ciphers.filter((name) => !name.startsWith("TLS_"));
    if (SSL_CTX_set_ciphersuites(this.pointer, cString(modern.join(":"))) !== 1) {
      throw refusedBy(`the ciphers ${modern.join(", ")}`, nameOtherCiphers);
    }
    // An empty list is refused. Without suites of its own TLS 1.2 fails in the handshake.
    if (older.length > 0 && SSL_CTX_set_cipher_list(this.pointer, cString(older.join(":"))) !== 1) {
      throw refusedBy(`the ciphers ${older.join(", ")}`, nameOtherCiphers);
    }
    if (older.length === 0) {
      this.#control(SSL.SSL_CTRL_SET_MIN_PROTO_VERSION, SSL.TLS1_3_VERSION);
    }
    if (modern.length === 0) {
      this.#control(SSL.SSL_CTRL_SET_MAX_PROTO_VERSION, SSL.TLS1_2_VERSION);
    }
  }

  #present({ certificate, key }: Identity): void {
    const { SSL_CTX_use_certificate, SSL_CTX_use_PrivateKey, SSL_CTX_ctrl } = libssl();
    let index = 0;
    for (using each of readAll(certificate, "X509")) {
      const taken = index++ === 0
        ? SSL_CTX_use_certificate(this.pointer, each.pointer) === 1
        // 1: with a reference of its own, as SSL_CTX_add1_chain_cert has it.
        : SSL_CTX_ctrl(this.pointer, SSL.SSL_CTRL_CHAIN_CERT, 1n, each.pointer) === 1n;
      if (!taken) throw refusedBy("the certificate");
    }
    for (using privateKey of isPkcs11Uri(key) ? [openTokenKey(key)] : readAll(key, "PrivateKey")) {
      // It also compares the key with the certificate.
      if (SSL_CTX_use_PrivateKey(this.pointer, privateKey.pointer) !== 1) {
        throw refusedBy("the private key");
      }
    }
  }

  #believe({ authorities, revocationLists = [] }: Trust): void {
    const { SSL_CTX_get_cert_store, SSL_CTX_set_default_verify_paths } = libssl();
    const { X509_STORE_add_cert, X509_STORE_add_crl, X509_STORE_set_flags } = libcrypto();
    if (authorities.length === 0) SSL_CTX_set_default_verify_paths(this.pointer);
    const store = SSL_CTX_get_cert_store(this.pointer);
    for (using each of authorities.flatMap((pem) => readAll(pem, "X509"))) {
      if (X509_STORE_add_cert(store, each.pointer) !== 1) {
        throw refusedBy("an authority's certificate");
      }
    }
    for (using list of revocationLists.flatMap((pem) => readAll(pem, "CRL"))) {
      if (X509_STORE_add_crl(store, list.pointer) !== 1) throw refusedBy("a revocation list");
    }
    if (revocationLists.length > 0) {
      const flags = SSL.X509_V_FLAG_CRL_CHECK | SSL.X509_V_FLAG_CRL_CHECK_ALL;
      X509_STORE_set_flags(store, BigInt(flags));
    }
  }

  #askForCertificate(authentication: ClientAuthentication | undefined): void {
    const { SSL_CTX_set_verify, SSL_CTX_set_num_tickets, SSL_CTX_set_session_id_context } =
      libssl();
    // One is enough for a client that comes back, and each costs both sides a record.
    SSL_CTX_set_num_tickets(this.pointer, 1n);
    const name = new TextEncoder().encode("verbseal");
    // Without it a client with a certificate cannot resume (SSL_CTX_set_session_id_context(3)).
    SSL_CTX_set_session_id_context(this.pointer, name, name.length);
    // Tickets are enough, and a session that the server keeps lacks what they hold.
    const off = BigInt(SSL.SSL_SESS_CACHE_OFF);
    libssl().SSL_CTX_ctrl(this.pointer, SSL.SSL_CTRL_SET_SESS_CACHE_MODE, off, null);
    if (!authentication) return;
    verifyTickets(this.pointer);
    this.#believe(authentication.trust);
    const required = authentication.required ? SSL.SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0;
    const mode = SSL.SSL_VERIFY_PEER | required;
    SSL_CTX_set_verify(this.pointer, mode, verifyAuthorities());
    for (const pem of authentication.trust.authorities) {
      for (using each of readAll(pem, "X509")) {
        libssl().SSL_CTX_add_client_CA(this.pointer, each.pointer);
      }
    }
  }

  #selectProtocol(protocols: readonly string[], kernelProtocol: string | undefined): void {
    if (protocols.length === 0) return;
    const key = [...protocols, kernelProtocol].join(" ");
    let index = protocolLists.findIndex((list) => list.key === key);
    if (index < 0) {
      index = protocolLists.push({ key, wire: wireList(protocols), kernelProtocol }) - 1;
    }
    libssl().SSL_CTX_set_alpn_select_cb(
      this.pointer,
      selectCallback(),
      pointerAt(BigInt(index)),
    );
  }
}

/** Protocols as ALPN has them: each with its length before it (RFC 7301, section 3.1). */
export function wireList(protocols: readonly string[]): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(protocols.flatMap((name) => {
    const bytes = new TextEncoder().encode(name);
    return [bytes.length, ...bytes];
  }));
}

/** What listeners of this thread agree on; there are two or three kinds of them. */
const protocolLists: {
  readonly key: string;
  readonly wire: Uint8Array<ArrayBuffer>;
  readonly kernelProtocol: string | undefined;
}[] = [];

/** C's way to ask which protocol it shall be. */
const selectCallback = lastingCallback(
  { parameters: ["pointer", "pointer", "pointer", "pointer", "u32", "pointer"], result: "i32" },
  (ssl, out, outLength, offered, length, argument) => {
    const { wire, kernelProtocol } = protocolLists[Number(addressOf(argument))]!;
    const { SSL_select_next_proto, SSL_set_options, SSL_set_num_tickets } = libssl();
    const found = SSL_select_next_proto(out, outLength, wire, wire.length, offered, length);
    if (found !== SSL.OPENSSL_NPN_NEGOTIATED) return SSL.SSL_TLSEXT_ERR_ALERT_FATAL;
    if (kernelProtocol !== undefined && selected(out!, outLength!) === kernelProtocol) {
      SSL_set_options(ssl, BigInt(SSL.SSL_OP_ENABLE_KTLS | SSL.SSL_OP_NO_TICKET));
      SSL_set_num_tickets(ssl, 0n);
    }
    return SSL.SSL_TLSEXT_ERR_OK;
  },
);

function selected(out: Deno.PointerObject, outLength: Deno.PointerObject): string {
  const name = new Deno.UnsafePointerView(out).getPointer();
  const length = new Deno.UnsafePointerView(outLength).getUint8();
  return new TextDecoder().decode(Deno.UnsafePointerView.getArrayBuffer(name!, length));
}

/** What PEM holds of one kind: of certificates and lists all, and one private key. */
function readAll(pem: string, kind: "X509" | "CRL" | "PrivateKey"): CryptoObject[] {
  const crypto = libcrypto();
  const [read, free] = {
    X509: [crypto.PEM_read_bio_X509, crypto.X509_free] as const,
    CRL: [crypto.PEM_read_bio_X509_CRL, crypto.X509_CRL_free] as const,
    PrivateKey: [crypto.PEM_read_bio_PrivateKey, crypto.EVP_PKEY_free] as const,
  }[kind];
  const bytes = new TextEncoder().encode(pem);
  clearErrors();
  using bio = new CryptoObject(crypto.BIO_new_mem_buf(bytes, bytes.length), crypto.BIO_free);
  const found: CryptoObject[] = [];
  for (;;) {
    const pointer = read(bio.pointer, null, null, null);
    if (pointer === null) break;
    found.push(new CryptoObject(pointer, free));
    if (kind === "PrivateKey") break;
  }
  bytes.fill(0);
  if (found.length === 0) throw refusedBy(`what should be PEM of ${kind}`);
  // The end of the text leaves an error of its own.
  clearErrors();
  return found;
}

/** What to do about a refusal that no file of the user's has to do with. */
const lookAtConfiguration =
  "Look at OpenSSL's configuration, openssl.cnf in the folder that openssl version -d prints, and " +
  "whether libssl3 is whole";
const nameOtherCiphers = "Name others with --tls-ciphers: openssl ciphers -v lists those it has";

function refusedBy(
  what: string,
  remedy = "Look at the file with openssl x509 -text, openssl pkey -text or openssl crl -text",
): TlsError {
  const why = takeError()?.text ?? "for no reason that it told";
  return new TlsError("openssl", `OpenSSL does not take ${what}: ${why}`, remedy);
}
