import { errorText, type TlsError } from "../errors.ts";
import type { Endpoint } from "./connection.ts";
import { connectionLost, type FailureCode, rejections, type Side, tlsFailure } from "./failure.ts";

/** How rustls words a failure, what it is, and what of the wording is worth telling. */
type Wording = readonly [
  pattern: RegExp,
  code: FailureCode,
  detail?: (match: RegExpExecArray) => string,
];

/** Alerts about this side's certificate, by rustls' names. */
const rejectionAlerts: Readonly<Record<string, keyof typeof rejections>> = {
  BadCertificate: "bad_certificate",
  UnsupportedCertificate: "unsupported_certificate",
  CertificateRevoked: "certificate_revoked",
  CertificateExpired: "certificate_expired",
  CertificateUnknown: "certificate_unknown",
  UnknownCA: "unknown_ca",
  BadCertificateStatusResponse: "bad_certificate_status_response",
};

/** Other alerts of the peer. */
const alerts: Readonly<Record<string, FailureCode>> = {
  BadRecordMac: "tampered",
  CertificateRequired: "certificate_required",
  HandshakeFailure: "handshake_refused",
  InappropriateFallback: "downgrade",
  NoApplicationProtocol: "other_protocol",
  ProtocolVersion: "version_refused",
};

/** What this side has found wrong with a server's certificate. */
const certificateWordings: readonly Wording[] = [
  [/UnknownIssuer/, "unknown_issuer"],
  [
    /not valid for name "([^"]*)"(?:; certificate is only valid for (.*))?/,
    "wrong_name",
    ([, name = "", others]) => name + (others === undefined ? "" : ` but for ${names(others)}`),
  ],
  [/NotValidYet|not valid yet|not valid before/i, "certificate_not_valid"],
  [/expired/i, "certificate_expired"],
  [/CaUsedAsEndEntity/, "authority_as_leaf"],
  [/UnsupportedCriticalExtension/, "unknown_extension"],
  [/extended key usage|RequiredEkuNotFound|InvalidPurpose/, "wrong_use"],
  [/PathLenConstraintViolated|MaximumPathDepthExceeded|MaximumPathBuild/, "chain_too_long"],
  [/invalid peer certificate: (.*)/, "certificate_bad", ([, why = ""]) => why],
];

/** What this side has found wrong with all else in a handshake. */
const handshakeWordings: readonly Wording[] = [
  [/doesn't support any known protocol/, "other_protocol"],
  // Before TLS 1.2 there is no such extension (RFC 5246, section 7.4.1.4.1).
  [/Tls12NotOffered|SignatureAlgorithmsExtensionRequired/, "version_refused"],
  [/NoCipherSuitesInCommon|NoKxGroupsInCommon/, "no_common_cipher"],
  [/AttemptedDowngrade/, "downgrade"],
  [/cannot decrypt/, "tampered"],
  [/unexpected end of file|connection reset|reset by peer|broken pipe/i, "connection_lost"],
];

/** What is no record; rustls does not tell what it is. */
const notTls = /InvalidContentType|UnknownProtocolVersion/;
const notTlsWordings: Readonly<Record<Side, Wording>> = {
  client: [notTls, "not_tls"],
  server: [notTls, "not_tls", () => "HTTP, perhaps"],
};

/** What is wrong with a record after the handshake. */
const recordWordings: readonly Wording[] = [[/cannot decrypt|corrupt message/, "tampered"]];

/** What Deno throws when a handshake fails, in one sentence. */
export function handshakeFailure(side: Side, peer: Endpoint, error: unknown): TlsError {
  const wordings = [...certificateWordings, ...handshakeWordings, notTlsWordings[side]];
  return knownFailure(side, peer, error, wordings) ??
    tlsFailure(side, "handshake_failed", peer, errorText(error), error);
}

/** Why a connection was lost after the handshake: with TLS 1.3 that is when a client hears of a refusal. */
export function lostConnection(side: Side, peer: Endpoint, error: unknown): TlsError {
  const text = errorText(error);
  // rustls says so with an address of its manual.
  const why = /close_notify/.test(text) ? "the other side ended it without a goodbye" : text;
  // A client gives up so if it may not begin another one.
  if (side === "server" && /fatal alert: HandshakeFailure/.test(text)) {
    return tlsFailure(side, "renegotiation", peer, undefined, error);
  }
  return knownFailure(side, peer, error, recordWordings) ?? connectionLost(peer, why, error);
}

/** The sentence for an alert of the peer, or for one of these wordings, if it is one of them. */
function knownFailure(
  side: Side,
  peer: Endpoint,
  error: unknown,
  wordings: readonly Wording[],
): TlsError | undefined {
  const text = errorText(error);
  const [, alert = ""] = /received fatal alert: (\w+)/.exec(text) ?? [];
  const rejection = rejectionAlerts[alert];
  if (rejection) {
    return tlsFailure(side, "certificate_rejected", peer, rejections[rejection], error);
  }
  const code = alerts[alert];
  if (code) return tlsFailure(side, code, peer, undefined, error);
  for (const [pattern, code, detail] of wordings) {
    const match = pattern.exec(text);
    if (match) return tlsFailure(side, code, peer, detail?.(match), error);
  }
  return undefined;
}

/** `DnsName("localhost") or IpAddress(127.0.0.1)`, as rustls lists them, without its type names. */
function names(list: string): string {
  return list.replaceAll(/\w+\("?([^")]*)"?\)/g, "$1");
}
