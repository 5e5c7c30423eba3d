import { readableSoon } from "../../ffi/epoll.ts";
import { libssl, X509_V } from "../../ffi/libssl.ts";
import type { Endpoint } from "./connection.ts";
import { connectionClosed, protocolMissing, type Side } from "./failure.ts";
import { CallFailure, OpensslConnection, type TlsSocket } from "./openssl_connection.ts";
import { handshakeFailure } from "./openssl_failure.ts";
import {
  certificatePin,
  type LeafChecks,
  namesOf,
  UnknownKeyError,
  verifying,
} from "./openssl_verification.ts";

/**
 * Ends also when this side has given the handshake up, which may have been after its last call.
 *
 * @throws TlsError when the handshake fails
 */
export async function shakeHands(
  socket: TlsSocket,
  side: Side,
  peer: Endpoint,
  { serverName, ...checks }: LeafChecks & { readonly serverName?: string } = {},
): Promise<void> {
  const { SSL_do_handshake, SSL_get_verify_result, SSL_get_current_cipher } = libssl();
  let refused: Uint8Array | undefined;
  try {
    await socket.run(() => {
      const step = verifying(checks, () => SSL_do_handshake(socket.ssl));
      refused = step.refused;
      return step.result;
    }, readableSoon);
  } catch (error) {
    if (!(error instanceof CallFailure)) throw error;
    if (socket.ended) throw connectionClosed(peer, error);
    const verifyResult = Number(SSL_get_verify_result(socket.ssl));
    if (verifyResult === X509_V.X509_V_ERR_CERT_REJECTED && refused) {
      throw new UnknownKeyError(peer, certificatePin(refused));
    }
    throw handshakeFailure(side, error.error, {
      peer,
      verifyResult,
      cipherAgreed: SSL_get_current_cipher(socket.ssl) !== null,
      expected: serverName === undefined ? undefined : expectation(serverName, refused),
    }, error);
  }
}

/** Whom a certificate was to be for, and whom the one refused was for. */
function expectation(serverName: string, certificate: Uint8Array | undefined): string {
  const names = certificate && namesOf(certificate);
  return names === undefined ? serverName : `${serverName} but for ${names}`;
}

/** @throws TlsError when the socket was ended, or the sides do not agree on one of `protocols` */
export function agreed(
  socket: TlsSocket,
  side: Side,
  local: Endpoint,
  peer: Endpoint,
  protocols: readonly string[],
): OpensslConnection {
  const connection = new OpensslConnection(socket, side, local, peer);
  if (protocols.length === 0 || protocols.includes(connection.alpn ?? "")) return connection;
  throw protocolMissing(peer, protocols);
}
