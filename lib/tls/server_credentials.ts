import { X509Certificate } from "node:crypto";
import type { ListenerCredentials } from "./credentials.ts";
import { loadRevocationLists } from "./load_revocation_lists.ts";
import { OcspStapler, staplerFor } from "./ocsp_stapler.ts";
import { type Identity, loadServerIdentity, loadTrust } from "./trust.ts";

/** The files that a server's credentials are in, and what they are for. */
export interface CredentialFiles {
  readonly cert: string;
  /** Or the `pkcs11:` URI of a key in a token. */
  readonly key: string;
  /** Authorities of clients; without them no client is asked for a certificate. */
  readonly clientCa: string | undefined;
  /** A client without a certificate is refused. */
  readonly clientRequired: boolean;
  /** Revocation lists of those authorities. */
  readonly crl: readonly string[];
  /** Whether to ask the responder that the certificate names for a response to staple. */
  readonly staple: boolean;
}

/**
 * What a server shows and believes, out of files. A renewed pair is never there at once, so that
 * who reads it in between has to read again: see {@linkcode loadCredentials}.
 */
export class ServerCredentials implements Disposable {
  readonly #stapler: OcspStapler | undefined;

  constructor(
    readonly identity: Identity,
    readonly listener: ListenerCredentials,
    stapler: OcspStapler | undefined,
  ) {
    this.#stapler = stapler;
  }

  /** The server's own certificate. */
  get certificate(): X509Certificate {
    return new X509Certificate(this.identity.certificate);
  }

  /** Authorities of clients, PEM. */
  get authorities(): readonly string[] {
    return this.listener.clientAuthentication?.trust.authorities ?? [];
  }

  [Symbol.dispose](): void {
    this.#stapler?.[Symbol.dispose]();
  }
}

/**
 * Reads the files of a server's credentials, and checks all that TLS would later fail on.
 *
 * @throws TlsError that names the file, what is wrong with it and what to do
 */
export async function loadCredentials(files: CredentialFiles): Promise<ServerCredentials> {
  const identity = await loadServerIdentity(files);
  const clientAuthentication = files.clientCa === undefined
    ? undefined
    : await loadClientAuthentication(files, files.clientCa);
  const authorities = clientAuthentication?.trust.authorities ?? [];
  const stapler = files.staple ? staplerFor(identity, authorities) : undefined;
  const listener = {
    identity,
    ...(clientAuthentication ? { clientAuthentication } : {}),
    ...(stapler ? { staple: () => stapler.response } : {}),
  };
  return new ServerCredentials(identity, listener, stapler);
}

async function loadClientAuthentication({ crl, clientRequired }: CredentialFiles, file: string) {
  const [{ authorities }, ...lists] = await Promise.all([
    loadTrust(file, "--client-ca"),
    ...crl.map((path) => loadRevocationLists(path)),
  ]);
  return { trust: { authorities, revocationLists: lists.flat() }, required: clientRequired };
}
