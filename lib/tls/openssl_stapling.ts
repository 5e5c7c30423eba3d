import { lastingCallback } from "../../ffi/callback.ts";
import { addressOf, pointerAt } from "../../ffi/layout.ts";
import { libcrypto } from "../../ffi/libcrypto.ts";
import { libssl, SSL } from "../../ffi/libssl.ts";
import type { Endpoint } from "./connection.ts";
import { peerCertificatesOf } from "./openssl_chain.ts";
import { clearErrors } from "./openssl_error.ts";
import { checkStaple, type OcspMode } from "./revocation.ts";

/** What a context does about the OCSP response of a handshake; returns what C is to hear. */
type Handler = (ssl: Deno.PointerObject) => number;

/** By what the callback is told of its context: contexts may outlive their owners. */
const handlers = new Map<bigint, Handler>();
let lastKey = 0n;

/** SSL_CTX_set_tlsext_status_cb(3). */
const statusCallback = lastingCallback(
  { parameters: ["pointer", "pointer"], result: "i32" },
  (ssl, key) => handlers.get(addressOf(key))?.(ssl!) ?? SSL.SSL_TLSEXT_ERR_NOACK,
);

function attach(context: Deno.PointerObject, handler: Handler): Disposable {
  const { SSL_CTX_callback_ctrl, SSL_CTX_ctrl } = libssl();
  const key = ++lastKey;
  handlers.set(key, handler);
  const command = SSL.SSL_CTRL_SET_TLSEXT_STATUS_REQ_CB;
  SSL_CTX_callback_ctrl(context, command, statusCallback());
  SSL_CTX_ctrl(context, SSL.SSL_CTRL_SET_TLSEXT_STATUS_REQ_CB_ARG, 0n, pointerAt(key));
  return { [Symbol.dispose]: () => handlers.delete(key) };
}

/**
 * Sends clients that ask for it a server's OCSP response with its certificate (RFC 6066, section 8),
 * until disposed.
 *
 * @param context SSL_CTX
 * @param response DER; undefined where there is none at that time
 */
export function staple(
  context: Deno.PointerObject,
  response: () => Uint8Array<ArrayBuffer> | undefined,
): Disposable {
  return attach(context, (ssl) => {
    const der = response();
    // libssl frees what it is given.
    const copy = der && libcrypto().CRYPTO_memdup(der, BigInt(der.length), null, 0);
    if (!copy) return SSL.SSL_TLSEXT_ERR_NOACK;
    const command = SSL.SSL_CTRL_SET_TLSEXT_STATUS_REQ_OCSP_RESP;
    libssl().SSL_set_tlsext_status_ocsp_resp(ssl, command, BigInt(der.length), copy);
    return SSL.SSL_TLSEXT_ERR_OK;
  });
}

/** A client's demand for a server's OCSP response. */
export class StapleCheck {
  #failure: unknown;

  constructor(readonly peer: Endpoint, readonly mode: OcspMode) {}

  /** Why the handshake was ended; undefined if it was not this. */
  get failure(): unknown {
    return this.#failure;
  }

  /**
   * Has responses looked into before the handshake is over, so that the server hears of a refusal.
   *
   * @param context SSL_CTX
   */
  attach(context: Deno.PointerObject): Disposable {
    if (this.mode === "off") return new DisposableStack();
    // 0: bad_certificate_status_response is the alert that ends the handshake.
    return attach(context, (ssl) => this.#isPassed(ssl) ? 1 : 0);
  }

  /** Asks for the response. */
  request(ssl: Deno.PointerObject): void {
    if (this.mode === "off") return;
    const command = SSL.SSL_CTRL_SET_TLSEXT_STATUS_REQ_TYPE;
    libssl().SSL_ctrl(ssl, command, BigInt(SSL.TLSEXT_STATUSTYPE_ocsp), null);
  }

  /** Nothing may be thrown into C. */
  #isPassed(ssl: Deno.PointerObject): boolean {
    try {
      const { mode, peer } = this;
      checkStaple(stapleOf(ssl), peerCertificatesOf(ssl), { mode, peer, authorities: [] });
      return true;
    } catch (error) {
      this.#failure = error;
      return false;
    } finally {
      // What is tolerated must not look like a failure of the handshake (SSL_get_error(3)).
      clearErrors();
    }
  }
}

/** The response that came with a server's certificate, DER. */
function stapleOf(ssl: Deno.PointerObject): Uint8Array | undefined {
  const address = new BigUint64Array(1);
  const command = SSL.SSL_CTRL_GET_TLSEXT_STATUS_REQ_OCSP_RESP;
  const length = libssl().SSL_ctrl(ssl, command, 0n, address);
  const pointer = pointerAt(address[0]!);
  if (pointer === null || length <= 0n) return undefined;
  return new Uint8Array(Deno.UnsafePointerView.getArrayBuffer(pointer, Number(length))).slice();
}
