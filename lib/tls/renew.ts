import * as x509 from "./peculiar_x509.ts";
import { dirname } from "node:path";
import { type Authority, checkIssued, keyPem, pem, signCertificate } from "./authority.ts";
import { replacement, writeFiles } from "./pem_files.ts";
import { loadPair } from "./trust.ts";

const dayMilliseconds = 86_400_000;

/** A certificate and the one that has taken its place. */
export interface Renewal {
  readonly key: string;
  readonly before: x509.X509Certificate;
  readonly after: x509.X509Certificate;
}

/**
 * Replaces a certificate by a new one that says the same, from now on, and, unless it is kept, its
 * key by a new one of the same type. Both files keep their owners and modes, and appear whole; for
 * a moment one is new and the other is not. Further certificates of the file stay.
 *
 * @param file path of the certificate; its key has the same name but for the ending, `.key`
 * @param options.days validity from now on; as long as before unless told
 * @throws TlsError if the authority has not signed it, or the key is not its key
 * @throws VerbsealError if the files cannot be written
 */
export async function renewCertificate(
  authority: Authority,
  file: string,
  { days, keepKey }: { days?: number | undefined; keepKey: boolean },
): Promise<Renewal> {
  const key = file.replace(/\.[^./]*$/, "") + ".key";
  // Resolved once: what is read is what is replaced, and nothing that a link leads to meanwhile.
  const real = { cert: await realPath(file), key: await realPath(key) };
  const { identity, certificates: [leaf, ...others] } = await loadPair(
    real,
    "issue another one with verbseal certs issue",
  );
  const before = await checkIssued(authority, file, leaf);
  const keys = keepKey ? undefined : await newKeys(before.publicKey);
  const after = await signCertificate(authority, {
    subject: before.subjectName,
    publicKey: keys === undefined ? before.publicKey : await x509.PublicKey.create(keys.publicKey),
    days: days ?? wholeDays(before),
    extensions: before.extensions.filter((extension) =>
      !(extension instanceof x509.SubjectKeyIdentifierExtension) &&
      !(extension instanceof x509.AuthorityKeyIdentifierExtension)
    ),
  });
  const text = pem(after) + others.map((each) => each.toString()).join("");
  const keyText = keys === undefined ? identity.key : await keyPem(keys.privateKey);
  const files = [await replacement(real.key, keyText), await replacement(real.cert, text)];
  await writeFiles(dirname(file), files, { overwrite: true });
  return { key, before, after };
}

/** Where a file is; of one that is missing who reads it tells. */
function realPath(path: string): Promise<string> {
  return Deno.realPath(path).catch(() => path);
}

/** Of the same algorithm, with the same curve or length. */
async function newKeys({ algorithm }: x509.PublicKey): Promise<CryptoKeyPair> {
  const same = { hash: "SHA-256", ...algorithm };
  return await crypto.subtle.generateKey(same, true, ["sign", "verify"]) as CryptoKeyPair;
}

function wholeDays({ notBefore, notAfter }: x509.X509Certificate): number {
  return Math.max(1, Math.round((notAfter.getTime() - notBefore.getTime()) / dayMilliseconds));
}
