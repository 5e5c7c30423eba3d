import { errorText, TlsError } from "../errors.ts";
import { type Endpoint, endpointText, protocol } from "./connection.ts";

/** A kind of failure: how rustls words it, and what that means to the user. */
interface Failure {
  readonly pattern: RegExp;
  readonly code: string;
  readonly message: (peer: string, match: RegExpExecArray) => string;
  readonly remedy: string;
}

const isItVerbseal = "Check host and port: is it a Verbseal server?";

const clientFailures: readonly Failure[] = [
  {
    pattern: /UnknownIssuer/,
    code: "unknown_issuer",
    message: (peer) => `The certificate of ${peer} is signed by an authority not trusted here`,
    remedy: "Name that authority's certificate with --ca, such as --ca certs/ca.pem",
  },
  {
    pattern: /not valid for name "([^"]*)"(?:; certificate is only valid for (.*))?/,
    code: "wrong_name",
    message: (peer, [, name = "", others]) =>
      `The certificate of ${peer} is not for ${name}` +
      (others === undefined ? "" : ` but for ${names(others)}`),
    remedy: "Connect by a name that it is for, or make one with verbseal certs init --host NAME",
  },
  {
    pattern: /NotValidYet|not valid yet|not valid before/i,
    code: "certificate_not_valid",
    message: (peer) => `The certificate of ${peer} is not valid yet`,
    remedy: "Check the clocks of both machines",
  },
  {
    pattern: /expired/i,
    code: "certificate_expired",
    message: (peer) => `The certificate of ${peer} has expired`,
    remedy: "Have it renewed, and check this machine's clock",
  },
  {
    pattern: /CaUsedAsEndEntity/,
    code: "authority_as_leaf",
    message: (peer) => `The certificate of ${peer} is an authority's, which must not serve`,
    remedy: "Give the server a certificate that the authority has signed: verbseal certs init",
  },
  {
    pattern: /NoApplicationProtocol/,
    code: "other_protocol",
    message: (peer) => `${peer} does not speak ${protocol}`,
    remedy: isItVerbseal,
  },
  {
    pattern: /InvalidContentType|corrupt message/,
    code: "not_tls",
    message: (peer) => `${peer} does not speak TLS`,
    remedy: isItVerbseal,
  },
];

const serverFailures: readonly Failure[] = [
  {
    pattern: /UnknownCA|BadCertificate|CertificateUnknown|CertificateExpired/,
    code: "certificate_rejected",
    message: (peer) => `${peer} does not accept this server's certificate`,
    remedy: "Give that client the certificate's authority with --ca",
  },
  {
    pattern: /doesn't support any known protocol/,
    code: "other_protocol",
    message: (peer) => `${peer} does not offer ${protocol}`,
    remedy: "",
  },
  {
    pattern: /InvalidContentType|corrupt message/,
    code: "not_tls",
    message: (peer) => `${peer} does not speak TLS`,
    remedy: "",
  },
];

/** Failures that read the same on either side. */
const commonFailures: readonly Failure[] = [
  {
    pattern: /unexpected end of file|reset by peer|broken pipe/i,
    code: "connection_lost",
    message: (peer) => `${peer} hung up during the TLS handshake`,
    remedy: "The other side's log may say why",
  },
];

/** Why a handshake failed, in one sentence. */
export function handshakeFailure(
  side: "client" | "server",
  peer: Endpoint,
  error: unknown,
): TlsError {
  const own = side === "client" ? clientFailures : serverFailures;
  const text = errorText(error);
  const address = endpointText(peer);
  for (const { pattern, code, message, remedy } of [...own, ...commonFailures]) {
    const match = pattern.exec(text);
    if (match) return new TlsError(code, message(address, match), remedy, { cause: error });
  }
  return new TlsError(
    "handshake_failed",
    `The TLS handshake with ${address} failed: ${text}`,
    "",
    { cause: error },
  );
}

/** The peer finished the handshake without agreeing on one of `protocols`. */
export function protocolMissing(peer: Endpoint, protocols: readonly string[]): TlsError {
  return new TlsError(
    "other_protocol",
    `${endpointText(peer)} does not speak ${protocols.join(" or ")}`,
    isItVerbseal,
  );
}

/** The peer took too long over the handshake. */
export function handshakeTimeout(peer: Endpoint, seconds: number): TlsError {
  return new TlsError(
    "handshake_timeout",
    `${endpointText(peer)} did not finish the TLS handshake within ${seconds} seconds`,
    isItVerbseal,
  );
}

/** `DnsName("localhost") or IpAddress(127.0.0.1)`, as rustls lists them, without its type names. */
function names(list: string): string {
  return list.replaceAll(/\w+\("?([^")]*)"?\)/g, "$1");
}
