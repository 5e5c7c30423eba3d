import { TlsError } from "../errors.ts";
import { type Endpoint, endpointText, protocol } from "./connection.ts";

/** The two ends of a TLS connection. */
export type Side = "server" | "client";

/** What went wrong, whichever library found it; the code of the error. */
export type FailureCode = keyof typeof failures;

/** A failure in words. */
interface Failure {
  /** What is wrong with a certificate goes in as `whose`: "The certificate of 10.0.0.5:4433". */
  readonly message: (peer: string, detail: string | undefined) => string;
  /** What the user of either side can do. */
  readonly remedy: string | Readonly<Record<Side, string>>;
}

const isItVerbseal = "Check host and port: is it a Verbseal server?";
const seeTheirLog = "The other side's log may say why";

const failures = {
  unknown_issuer: {
    message: (peer) => `The certificate of ${peer} is signed by an authority not trusted here`,
    remedy: {
      client: "Name that authority's certificate with --ca, such as --ca certs/ca.pem",
      server: "Name that authority's certificate with --client-ca, if its clients are welcome",
    },
  },
  wrong_name: {
    message: (peer, names) => `The certificate of ${peer} is not for ${names}`,
    remedy: "Connect by a name that it is for, or make one with verbseal certs init --host NAME",
  },
  certificate_not_valid: {
    message: (peer) => `The certificate of ${peer} is not valid yet`,
    remedy: "Check the clocks of both machines",
  },
  certificate_expired: {
    message: (peer) => `The certificate of ${peer} has expired`,
    remedy: "Have it renewed, and check this machine's clock",
  },
  certificate_revoked: {
    message: (peer) => `The certificate of ${peer} has been revoked by its authority`,
    remedy: "Trust it no more: its key may be in other hands. Its owner needs a new one",
  },
  certificate_unknown: {
    message: (peer) => `The authority's responder does not know the certificate of ${peer}`,
    remedy: "Ask the authority whether it has issued it, or try again later if it is new",
  },
  revocation_unknown: {
    message: (peer, why) => `Whether the certificate of ${peer} is revoked cannot be told: ${why}`,
    remedy: "Name a current revocation list of each authority with --crl",
  },
  authority_as_leaf: {
    message: (peer) => `The certificate of ${peer} is an authority's, and not its own`,
    remedy: "Give it one that the authority has signed: verbseal certs issue",
  },
  wrong_use: {
    message: (peer) => `The certificate of ${peer} was not issued for this use`,
    remedy: "A server needs one for serverAuth, a client one for clientAuth: verbseal certs issue",
  },
  unknown_extension: {
    message: (peer) =>
      `The certificate of ${peer} has an extension that must not be ignored and is not understood`,
    remedy: "Have it issued again without that extension",
  },
  chain_too_long: {
    message: (peer) =>
      `The certificate of ${peer} has too many authorities between it and the root`,
    remedy: "Have it issued by an authority nearer to the root",
  },
  certificate_bad: {
    message: (peer, why) => `The certificate of ${peer} is of no use: ${why}`,
    remedy: "Look at it with openssl x509 -text, and have it issued again",
  },
  certificate_missing: {
    message: (peer) => `${peer} has shown no certificate`,
    remedy: "Give that client one with --cert and --key: verbseal certs issue --for client",
  },
  certificate_required: {
    message: (peer) => `${peer} asks its clients for a certificate`,
    remedy: "Name yours with --cert and --key",
  },
  certificate_rejected: {
    message: (peer, why) => `${peer} does not accept this side's certificate${because(why)}`,
    remedy: {
      client: "Look at it with verbseal certs show, and see that the server's --client-ca has " +
        "signed it",
      server: "Look at it with verbseal certs show, and see that the client's --ca has signed it",
    },
  },
  other_protocol: {
    message: (peer) => `${peer} does not speak ${protocol}`,
    remedy: {
      client: isItVerbseal,
      server: "It is no client of this version; plain TLS clients have --messages-listen",
    },
  },
  not_tls: {
    message: (peer, what) =>
      `${peer} does not speak TLS${what === undefined ? "" : ` but ${what}`}`,
    remedy: {
      client: isItVerbseal,
      server: "Something else knocks: a scanner, or a client that was told a wrong port",
    },
  },
  version_refused: {
    message: (peer) => `${peer} and this side have no version of TLS in common`,
    remedy: "Both need TLS 1.2 at least; see --tls-min on both sides",
  },
  no_common_cipher: {
    message: (peer) => `${peer} and this side have no cipher suite in common`,
    remedy: "See --tls-ciphers on both sides",
  },
  handshake_refused: {
    message: (peer) => `${peer} refuses the handshake, and does not say why`,
    remedy: {
      client: "It may ask for a certificate (--cert and --key) or for other cipher suites " +
        "(--tls-ciphers): its log says why",
      server: seeTheirLog,
    },
  },
  downgrade: {
    message: (peer) => `${peer} offers less than it could: someone may be tampering`,
    remedy: "If it happens again, look for who stands between the two hosts",
  },
  tampered: {
    message: (peer) => `A record from ${peer} was changed on its way, or is no record of TLS`,
    remedy: "If it happens again, look for who stands between the two hosts",
  },
  renegotiation: {
    message: (peer) => `${peer} wanted to renegotiate, which is not allowed`,
    remedy: "That side has to make a new connection instead",
  },
  connection_lost: {
    message: (peer) => `${peer} hung up during the TLS handshake`,
    remedy: seeTheirLog,
  },
  handshake_failed: {
    message: (peer, why) => `The TLS handshake with ${peer} failed: ${why}`,
    remedy: "Put openssl s_client or s_server in the place of one side to see more",
  },
} as const satisfies Record<string, Failure>;

/** Alerts about this side's certificate (RFC 8446, section 6.2), and why it is refused. */
export const rejections = {
  bad_certificate: undefined,
  unsupported_certificate: "it was not issued for this use",
  certificate_revoked: "it has been revoked",
  certificate_expired: "it or its revocation list has expired, or is not valid yet",
  certificate_unknown: "its authority does not know it, or something else is wrong with it",
  unknown_ca: "its authorities are not trusted there, or cannot be checked",
  bad_certificate_status_response: "its stapled OCSP response is of no use",
} as const;

function because(why: string | undefined): string {
  return why === undefined ? "" : `: ${why}`;
}

/**
 * Why a handshake failed, in one sentence.
 *
 * @param side this one
 * @param detail what the sentence has room for
 */
export function tlsFailure(
  side: Side,
  code: FailureCode,
  peer: Endpoint,
  detail: string | undefined,
  cause?: unknown,
): TlsError {
  const { message, remedy }: Failure = failures[code];
  const text = message(endpointText(peer), detail);
  return new TlsError(code, text, typeof remedy === "string" ? remedy : remedy[side], { cause });
}

/** Who could speak for the peer's certificate does not know it. */
export function certificateUnknown(peer: Endpoint): TlsError {
  const { message, remedy } = failures.certificate_unknown;
  return new TlsError("certificate_unknown", message(endpointText(peer)), remedy);
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

/** A connection ended that was not to end. */
export function connectionLost(peer: Endpoint, why: string, cause: unknown): TlsError {
  return new TlsError(
    "connection_lost",
    `The connection to ${endpointText(peer)} was lost: ${why}`,
    seeTheirLog,
    { cause },
  );
}

/** This side has closed the connection. */
export function connectionClosed(peer: Endpoint, cause?: unknown): TlsError {
  return new TlsError(
    "connection_closed",
    `The connection to ${endpointText(peer)} is closed`,
    "",
    {
      cause,
    },
  );
}
