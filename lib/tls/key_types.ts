/** The types of keys that certificates can be made for, with what WebCrypto calls them. */
const algorithms = {
  "ecdsa-p256": { name: "ECDSA", namedCurve: "P-256" },
  "ed25519": { name: "Ed25519" },
  "rsa-4096": {
    name: "RSASSA-PKCS1-v1_5",
    modulusLength: 4096,
    publicExponent: new Uint8Array([1, 0, 1]),
    hash: "SHA-256",
  },
};

export type KeyType = keyof typeof algorithms;

export const keyTypes = Object.keys(algorithms) as readonly KeyType[];

export const defaultKeyType: KeyType = "ecdsa-p256";

/** A new pair of keys, fit to be written to a file. */
export function generateKeys(type: KeyType): Promise<CryptoKeyPair> {
  return crypto.subtle.generateKey(algorithms[type], true, ["sign", "verify"]) as Promise<
    CryptoKeyPair
  >;
}

/** Facts of a key's algorithm, as WebCrypto names them. */
export interface KeyAlgorithmFacts {
  readonly name: string;
  readonly namedCurve?: string;
  readonly modulusLength?: number;
}

/** What a kind of key is called: `ECDSA P-256`, `Ed25519`, `RSA 4096`. */
export function keyName({ name, namedCurve, modulusLength }: KeyAlgorithmFacts): string {
  return [name.replace(/^RSA.*/, "RSA"), namedCurve, modulusLength]
    .filter((part) => part !== undefined).join(" ");
}
