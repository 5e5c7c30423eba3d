import { X509Certificate } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import type { ClientAuthentication, KnownRefusal, ListenerCredentials } from "./credentials.ts";
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
  /** What is known of clients' certificates already, where anybody is asked about them. */
  readonly knownRefusal: KnownRefusal | undefined;
}

/**
 * What a server shows and believes, out of files. A renewed pair is never there at once, so that
 * who reads it in between has to read again: see {@linkcode loadCredentials}.
 */
export class ServerCredentials implements Disposable {
  readonly identity: Identity;
  readonly listener: ListenerCredentials;
  /** Undefined where there is nothing to staple. */
  readonly stapler: OcspStapler | undefined;

  constructor(
    { identity, clientAuthentication }: FileContents,
    stapler: OcspStapler | undefined,
    knownRefusal: KnownRefusal | undefined,
  ) {
    this.identity = identity;
    this.stapler = stapler;
    this.listener = {
      identity,
      ...(clientAuthentication ? { clientAuthentication } : {}),
      ...(knownRefusal ? { knownRefusal } : {}),
      ...(stapler ? { staple: () => stapler.response } : {}),
    };
  }

  /** The server's own certificate. */
  get certificate(): X509Certificate {
    return new X509Certificate(this.identity.certificate);
  }

  /** Authorities of clients, PEM. */
  get authorities(): readonly string[] {
    return this.listener.clientAuthentication?.trust.authorities ?? [];
  }

  /** Whether files with these contents would make the same credentials. */
  areOf({ identity, clientAuthentication }: FileContents): boolean {
    const { listener } = this;
    return isDeepStrictEqual(
      [identity, clientAuthentication],
      [listener.identity, listener.clientAuthentication],
    );
  }

  /** Ends what these credentials keep up, but for what others that are in use now do too. */
  giveWayTo({ stapler }: ServerCredentials): void {
    if (this.stapler !== stapler) this[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    this.stapler?.[Symbol.dispose]();
  }
}

/** What the files of a server's credentials hold. */
interface FileContents {
  readonly identity: Identity;
  readonly clientAuthentication: ClientAuthentication | undefined;
}

/**
 * Reads the files of a server's credentials, and checks all that TLS would later fail on. Where the
 * certificate names a responder, its first answer is waited for, 5 seconds at most: clients may ask
 * for it from the first handshake on.
 *
 * @param before credentials in use: they are the result if the files hold the same, and otherwise
 * share their stapler with the result where the certificate is the same (see
 * {@linkcode ServerCredentials.giveWayTo})
 * @throws TlsError that names the file, what is wrong with it and what to do
 */
export async function loadCredentials(
  files: CredentialFiles,
  before?: ServerCredentials,
): Promise<ServerCredentials> {
  const identity = await loadServerIdentity(files);
  const clientAuthentication = files.clientCa === undefined
    ? undefined
    : await loadClientAuthentication(files, files.clientCa);
  const contents = { identity, clientAuthentication };
  if (before?.areOf(contents)) return before;
  const authorities = clientAuthentication?.trust.authorities ?? [];
  const stapler = files.staple
    ? await staplerFor(identity, authorities, before?.stapler)
    : undefined;
  await stapler?.ready;
  return new ServerCredentials(contents, stapler, files.knownRefusal);
}

async function loadClientAuthentication(
  { crl, clientRequired }: CredentialFiles,
  file: string,
): Promise<ClientAuthentication> {
  const [{ authorities }, ...lists] = await Promise.all([
    loadTrust(file, "--client-ca"),
    ...crl.map((path) => loadRevocationLists(path)),
  ]);
  return { trust: { authorities, revocationLists: lists.flat() }, required: clientRequired };
}
