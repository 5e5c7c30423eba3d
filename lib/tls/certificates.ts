import { createAuthority } from "./authority.ts";
import { issueCertificate } from "./issue.ts";
import { defaultKeyType, type KeyType } from "./key_types.ts";
import { crlPem, signRevocationList } from "./revocation_list.ts";
import type { Identity } from "./trust.ts";

/** An authority and what it has signed. */
export interface CertificateSet {
  readonly ca: Identity;
  readonly server: Identity;
  readonly client: Identity;
  /** What the authority has revoked, nothing so far (PEM): a server can be told to check from the first day. */
  readonly revocationList: string;
}

/**
 * Creates an authority and, signed by it, a server and a client certificate, all with new keys.
 *
 * @param options.hosts names and addresses that the server is reached by
 * @param options.days validity of the server and client certificates, below those of the authority (3650)
 * @param options.keyType type of all keys; ECDSA P-256 unless told
 */
export async function createCertificates(
  options: { hosts: readonly string[]; days: number; keyType?: KeyType },
): Promise<CertificateSet> {
  const { hosts, days, keyType = defaultKeyType } = options;
  const { authority, identity } = await createAuthority(keyType);
  const both = { days, keyType };
  return {
    ca: identity,
    server: await issueCertificate(authority, {
      ...both,
      commonName: "Verbseal server",
      use: "server",
      hosts,
    }),
    client: await issueCertificate(authority, {
      ...both,
      commonName: "Verbseal client",
      use: "client",
    }),
    revocationList: crlPem(await signRevocationList(authority, { number: 1n, entries: [] })),
  };
}
