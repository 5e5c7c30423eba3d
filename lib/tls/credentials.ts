import type { Identity, Trust } from "./trust.ts";

/**
 * What is known at the moment of a certificate that its authority speaks against.
 *
 * @param certificate DER
 * @param issuer certificate of who has signed it, DER
 */
export type KnownRefusal = (
  certificate: Uint8Array,
  issuer: Uint8Array,
) => "revoked" | "unknown" | undefined;

/** What a server asks of its clients' certificates. */
export interface ClientAuthentication {
  /** Whose certificates are believed; at least one authority. */
  readonly trust: Trust;
  /** A client without a certificate is refused. */
  readonly required: boolean;
}

/** What a listener can exchange for other files while it runs. */
export interface ListenerCredentials {
  readonly identity: Identity;
  /** Without it no client is asked for a certificate. */
  readonly clientAuthentication?: ClientAuthentication;
  /** Ends the handshake with a client that shows such a certificate. */
  readonly knownRefusal?: KnownRefusal | undefined;
  /** The OCSP response on the identity at any time, DER, for clients that ask for it. */
  readonly staple?: () => Uint8Array<ArrayBuffer> | undefined;
}
