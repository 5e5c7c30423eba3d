import { libcrypto } from "../../ffi/libcrypto.ts";
import { SSL, SSL_R, X509_V } from "../../ffi/libssl.ts";
import type { TlsError } from "../errors.ts";
import type { Endpoint } from "./connection.ts";
import { connectionLost, type FailureCode, rejections, type Side, tlsFailure } from "./failure.ts";
import type { OpensslFailure } from "./openssl_error.ts";

/** What libssl's reasons mean. */
const reasons = new Map<number, FailureCode>([
  [SSL_R.SSL_R_NO_APPLICATION_PROTOCOL, "other_protocol"],
  [SSL_R.SSL_R_TLSV1_ALERT_NO_APPLICATION_PROTOCOL, "other_protocol"],
  [SSL_R.SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE, "certificate_missing"],
  [SSL_R.SSL_R_WRONG_VERSION_NUMBER, "not_tls"],
  [SSL_R.SSL_R_HTTP_REQUEST, "not_tls"],
  [SSL_R.SSL_R_HTTPS_PROXY_REQUEST, "not_tls"],
  [SSL_R.SSL_R_UNSUPPORTED_PROTOCOL, "version_refused"],
  [SSL_R.SSL_R_TLSV1_ALERT_PROTOCOL_VERSION, "version_refused"],
  [SSL_R.SSL_R_NO_SHARED_CIPHER, "no_common_cipher"],
  [SSL_R.SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE, "handshake_refused"],
  [SSL_R.SSL_R_INAPPROPRIATE_FALLBACK, "downgrade"],
  [SSL_R.SSL_R_TLSV1_ALERT_INAPPROPRIATE_FALLBACK, "downgrade"],
  [SSL_R.SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC, "tampered"],
  [SSL_R.SSL_R_SSLV3_ALERT_BAD_RECORD_MAC, "tampered"],
  [SSL_R.SSL_R_NO_RENEGOTIATION, "renegotiation"],
  [SSL_R.SSL_R_UNEXPECTED_EOF_WHILE_READING, "connection_lost"],
  [SSL_R.SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED, "certificate_required"],
]);

/** Alerts about this side's certificate. */
const rejectionAlerts = new Map<number, keyof typeof rejections>([
  [SSL_R.SSL_R_SSLV3_ALERT_BAD_CERTIFICATE, "bad_certificate"],
  [SSL_R.SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE, "unsupported_certificate"],
  [SSL_R.SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED, "certificate_revoked"],
  [SSL_R.SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED, "certificate_expired"],
  [SSL_R.SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN, "certificate_unknown"],
  [SSL_R.SSL_R_TLSV1_ALERT_UNKNOWN_CA, "unknown_ca"],
  [SSL_R.SSL_R_TLSV1_BAD_CERTIFICATE_STATUS_RESPONSE, "bad_certificate_status_response"],
]);

/** What is wrong with a peer's certificate, by the results of X509_verify_cert(3). */
const verifications = new Map<number, FailureCode>([
  [X509_V.X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, "unknown_issuer"],
  [X509_V.X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, "unknown_issuer"],
  [X509_V.X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, "unknown_issuer"],
  [X509_V.X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN, "unknown_issuer"],
  [X509_V.X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE, "unknown_issuer"],
  [X509_V.X509_V_ERR_CERT_UNTRUSTED, "unknown_issuer"],
  [X509_V.X509_V_ERR_CERT_NOT_YET_VALID, "certificate_not_valid"],
  [X509_V.X509_V_ERR_CERT_HAS_EXPIRED, "certificate_expired"],
  [X509_V.X509_V_ERR_CERT_REVOKED, "certificate_revoked"],
  [X509_V.X509_V_ERR_OCSP_CERT_UNKNOWN, "certificate_unknown"],
  [X509_V.X509_V_ERR_UNABLE_TO_GET_CRL, "revocation_unknown"],
  [X509_V.X509_V_ERR_CRL_HAS_EXPIRED, "revocation_unknown"],
  [X509_V.X509_V_ERR_CRL_NOT_YET_VALID, "revocation_unknown"],
  [X509_V.X509_V_ERR_CERT_CHAIN_TOO_LONG, "chain_too_long"],
  [X509_V.X509_V_ERR_PATH_LENGTH_EXCEEDED, "chain_too_long"],
  [X509_V.X509_V_ERR_INVALID_PURPOSE, "wrong_use"],
  [X509_V.X509_V_ERR_INVALID_NON_CA, "authority_as_leaf"],
  [X509_V.X509_V_ERR_UNHANDLED_CRITICAL_EXTENSION, "unknown_extension"],
  [X509_V.X509_V_ERR_HOSTNAME_MISMATCH, "wrong_name"],
  [X509_V.X509_V_ERR_IP_ADDRESS_MISMATCH, "wrong_name"],
]);

/** What a failed handshake is told of, besides libssl's error. */
export interface HandshakeFailureContext {
  readonly peer: Endpoint;
  /** Of SSL_get_verify_result(3). */
  readonly verifyResult: number;
  /** The peer has chosen a cipher suite: what it refuses afterwards is something else. */
  readonly cipherAgreed: boolean;
  /** The name that the peer's certificate had to be for, and those that it is for. */
  readonly expected: string | undefined;
}

/** Why a handshake of libssl failed, in one sentence. */
export function handshakeFailure(
  side: Side,
  error: OpensslFailure | undefined,
  { peer, verifyResult, cipherAgreed, expected }: HandshakeFailureContext,
  cause?: unknown,
): TlsError {
  if (error?.reason === SSL_R.SSL_R_CERTIFICATE_VERIFY_FAILED) {
    return certificateFailure(side, verifyResult, peer, expected, cause);
  }
  if (side === "client" && error?.reason === SSL_R.SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE) {
    const code = cipherAgreed ? "certificate_required" : "no_common_cipher";
    return tlsFailure(side, code, peer, undefined, cause);
  }
  return alertFailure(side, error, peer, cause) ??
    // Without an error of its own: the socket's.
    tlsFailure(side, error ? "handshake_failed" : "connection_lost", peer, error?.text, cause);
}

/** What is wrong with the peer's certificate, in one sentence. */
function certificateFailure(
  side: Side,
  result: number,
  peer: Endpoint,
  expected: string | undefined,
  cause?: unknown,
): TlsError {
  const words = libcrypto().X509_verify_cert_error_string(BigInt(result));
  const text = words === null ? "" : Deno.UnsafePointerView.getCString(words);
  const code = verifications.get(result) ?? "certificate_bad";
  return tlsFailure(side, code, peer, code === "wrong_name" ? expected : text, cause);
}

/** The sentence for an error that is the same in and after the handshake, if there is one. */
function alertFailure(
  side: Side,
  error: OpensslFailure | undefined,
  peer: Endpoint,
  cause: unknown,
): TlsError | undefined {
  if (error?.library !== SSL.ERR_LIB_SSL) return undefined;
  const rejection = rejectionAlerts.get(error.reason);
  if (rejection) {
    return tlsFailure(side, "certificate_rejected", peer, rejections[rejection], cause);
  }
  const code = reasons.get(error.reason);
  if (code === undefined) return undefined;
  const http = error.reason === SSL_R.SSL_R_HTTP_REQUEST;
  return tlsFailure(side, code, peer, http ? "HTTP" : undefined, cause);
}

/**
 * Why a connection was lost after the handshake: with TLS 1.3 that is when a client hears of a refusal.
 *
 * @param version as in HandshakeFacts
 */
export function lostConnection(
  side: Side,
  version: string,
  peer: Endpoint,
  error: OpensslFailure | undefined,
  cause: unknown,
): TlsError {
  if (error?.reason === SSL_R.SSL_R_UNEXPECTED_EOF_WHILE_READING) {
    return connectionLost(peer, "the other side ended it without a goodbye", cause);
  }
  // Who may not begin another handshake gives up so.
  const mayRenegotiate = side === "server" || version === "TLSv1.2";
  if (mayRenegotiate && error?.reason === SSL_R.SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE) {
    return tlsFailure(side, "renegotiation", peer, undefined, cause);
  }
  const changed = error?.library === SSL.ERR_LIB_SSL &&
    error.reason === SSL_R.SSL_R_WRONG_VERSION_NUMBER;
  if (changed) return tlsFailure(side, "tampered", peer, undefined, cause);
  return alertFailure(side, error, peer, cause) ??
    connectionLost(peer, error?.text ?? "the network failed, or the other side reset it", cause);
}
