import type { CertificateSet } from "./certificates.ts";
import { identityFiles, publicMode, writeFiles } from "./pem_files.ts";

/**
 * Writes `ca.pem`, `ca.key`, `server.pem`, `server.key`, `client.pem`, `client.key` and `ca.crl`,
 * as {@linkcode writeFiles} does.
 */
export async function writeCertificates(
  directory: string,
  { revocationList, ...identities }: CertificateSet,
  options: { overwrite: boolean },
): Promise<string[]> {
  const files = Object.entries(identities).flatMap(([name, identity]) =>
    identityFiles(directory, name, identity)
  );
  files.push({ path: `${directory}/ca.crl`, text: revocationList, mode: publicMode });
  return await writeFiles(directory, files, options);
}
