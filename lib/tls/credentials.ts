import type { Identity, Trust } from "./trust.ts";

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
  /** The OCSP response on the identity at any time, DER, for clients that ask for it. */
  readonly staple?: () => Uint8Array<ArrayBuffer> | undefined;
}
