import { errorText, type TlsError } from "../errors.ts";
import type { Endpoint } from "./connection.ts";
import { type FailureCode, type Side, tlsFailure } from "./failure.ts";

/** How rustls words a failure, what it is, and what of the wording is worth telling. */
type Wording = readonly [
  pattern: RegExp,
  code: FailureCode,
  detail?: (match: RegExpExecArray) => string,
];

const clientWordings: readonly Wording[] = [
  [/UnknownIssuer/, "unknown_issuer"],
  [
    /not valid for name "([^"]*)"(?:; certificate is only valid for (.*))?/,
    "wrong_name",
    ([, name = "", others]) => name + (others === undefined ? "" : ` but for ${names(others)}`),
  ],
  [/NotValidYet|not valid yet|not valid before/i, "certificate_not_valid"],
  [/received fatal alert: (\w*Certificate\w*|UnknownCA)/, "certificate_rejected"],
  [/expired/i, "certificate_expired"],
  [/CaUsedAsEndEntity/, "authority_as_leaf"],
  [/UnsupportedCriticalExtension/, "unknown_extension"],
  [/RequiredEkuNotFound|InvalidPurpose|not suited|for this use/i, "wrong_use"],
  [/PathLenConstraintViolated|MaximumPathDepthExceeded|MaximumPathBuild/, "chain_too_long"],
  [/NoApplicationProtocol/, "other_protocol"],
];

const serverWordings: readonly Wording[] = [
  [/UnknownCA|BadCertificate|CertificateUnknown|CertificateExpired/, "certificate_rejected"],
  [/doesn't support any known protocol/, "other_protocol"],
];

/** Failures that read the same on either side. */
const commonWordings: readonly Wording[] = [
  [/InvalidContentType|corrupt message/, "not_tls"],
  [/unexpected end of file|reset by peer|broken pipe/i, "connection_lost"],
];

/** What Deno throws when a handshake fails, in one sentence. */
export function handshakeFailure(side: Side, peer: Endpoint, error: unknown): TlsError {
  const own = side === "client" ? clientWordings : serverWordings;
  const text = errorText(error);
  for (const [pattern, code, detail] of [...own, ...commonWordings]) {
    const match = pattern.exec(text);
    if (match) return tlsFailure(side, code, peer, detail?.(match), error);
  }
  return tlsFailure(side, "handshake_failed", peer, text, error);
}

/** `DnsName("localhost") or IpAddress(127.0.0.1)`, as rustls lists them, without its type names. */
function names(list: string): string {
  return list.replaceAll(/\w+\("?([^")]*)"?\)/g, "$1");
}
