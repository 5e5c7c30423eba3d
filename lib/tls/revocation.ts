import { TlsError } from "../errors.ts";
import { logger } from "../telemetry/log.ts";
import { type Endpoint, endpointText, type TlsConnection } from "./connection.ts";
import { checkOcspResponse, type OcspAnswer } from "./ocsp.ts";
import { certificateUnknown } from "./failure.ts";
import type { OcspClient } from "./ocsp_client.ts";
import { findIssuer } from "./x509.ts";

const log = logger("tls");

/** Values of `--ocsp`. */
export const ocspModes = ["off", "prefer", "require"] as const;

/**
 * What is asked of the authority about a peer's certificate: nothing; that it does not say no; or
 * that it says yes.
 */
export type OcspMode = (typeof ocspModes)[number];

/**
 * Asks about the certificate that a client has shown, as a server is told to.
 *
 * @param signal ends the wait for the answer
 * @throws TlsError if the certificate is revoked, the reason of `signal`
 */
export type CheckRevocation = (connection: TlsConnection, signal: AbortSignal) => Promise<void>;

/** Whose certificate is looked at, and how strictly. */
export interface RevocationOptions {
  readonly mode: OcspMode;
  readonly peer: Endpoint;
  /** The authorities that the handshake has believed, DER: a peer need not show its root. */
  readonly authorities: readonly Uint8Array[];
}

/**
 * Asks the responder of a peer's certificate whether it is revoked: after the handshake, before
 * anything else is done for the peer. Only the peer's own certificate is asked about, not those of
 * its authorities; a peer without any passes.
 *
 * @param certificates the peer's, verified, and those of its authorities, as it has shown them: DER
 * @throws TlsError `certificate_revoked` and `certificate_unknown`, in mode `require` also
 * `revocation_unknown` if there is no answer; the reason of `options.signal`
 */
export async function checkRevocation(
  certificates: readonly Uint8Array[],
  options: RevocationOptions & { readonly client: OcspClient; readonly signal?: AbortSignal },
): Promise<void> {
  const { mode, client, signal } = options;
  if (mode === "off" || certificates.length === 0) return;
  let answer: OcspAnswer;
  try {
    const [certificate, issuer] = withIssuer(certificates, options.authorities);
    answer = await client.status(certificate, issuer, signal ? { signal } : {});
  } catch (error) {
    signal?.throwIfAborted();
    return withoutAnswer(error, options);
  }
  decide(answer, options);
}

/**
 * Looks into the response that a server has stapled to its certificate (RFC 6066, section 8), as
 * {@linkcode checkRevocation} does into that of the responder.
 *
 * @param staple DER; undefined if there was none
 * @throws TlsError as {@linkcode checkRevocation} does
 */
export function checkStaple(
  staple: Uint8Array | undefined,
  certificates: readonly Uint8Array[],
  options: RevocationOptions,
): void {
  if (options.mode === "off") return;
  let answer: OcspAnswer;
  try {
    const [certificate, issuer] = withIssuer(certificates, options.authorities);
    if (staple === undefined) throw noStaple();
    answer = checkOcspResponse(staple, certificate, issuer);
  } catch (error) {
    return withoutAnswer(error, options);
  }
  decide(answer, options);
}

/** There is no answer: lets that pass unless one is required. */
function withoutAnswer(error: unknown, { mode, peer }: RevocationOptions): void {
  if (!(error instanceof TlsError)) throw error;
  const { code, message, remedy } = error;
  if (mode === "require") {
    throw new TlsError(
      "revocation_unknown",
      `Whether the certificate of ${endpointText(peer)} is revoked is not known: ${message}`,
      remedy,
      { cause: error },
    );
  }
  // Most authorities without a responder publish lists instead.
  if (code === "ocsp_no_responder") return;
  log.warning("whether a certificate is revoked is not known", {
    peer: endpointText(peer),
    code,
    reason: message,
  });
}

function decide({ status, revocationReason }: OcspAnswer, { peer }: RevocationOptions): void {
  if (status === "revoked") {
    const why = revocationReason === undefined ? "" : ` (${revocationReason})`;
    throw new TlsError(
      "certificate_revoked",
      `The certificate of ${endpointText(peer)} is revoked${why}`,
      "Ask its owner, who needs a new one",
    );
  }
  if (status === "unknown") throw certificateUnknown(peer);
}

function withIssuer(
  [certificate, ...others]: readonly Uint8Array[],
  authorities: readonly Uint8Array[],
): [Uint8Array, Uint8Array] {
  const issuer = certificate && findIssuer(certificate, [...others, ...authorities]);
  if (certificate && issuer) return [certificate, issuer];
  throw new TlsError(
    "ocsp_no_issuer",
    "The authority that has signed the certificate was not sent with it and is not known",
    "Name that authority's certificate among those that are trusted",
  );
}

function noStaple(): TlsError {
  return new TlsError(
    "ocsp_no_staple",
    "The server has sent no OCSP response with its certificate",
    "Have the server send one, or do without with --ocsp prefer",
  );
}
