import { libcrypto } from "../../ffi/libcrypto.ts";
import { CKR } from "../../ffi/pkcs11.ts";
import { errorText, TlsError } from "../errors.ts";
import { clearErrors, errorReason, takeError } from "./openssl_error.ts";
import { parsePkcs11Uri, type Pkcs11Uri, privateKeysOfToken } from "./pkcs11_uri.ts";
import { declinePrompts, type PinPrompt } from "./pin_prompt.ts";
import { openEngine } from "./token_engine.ts";
import { openProvider } from "./token_provider.ts";
import type { TokenStore } from "./token_store.ts";
import { CryptoObject, parseCertificate } from "./x509.ts";

const pinRefusals: readonly number[] = Object.values(CKR);

/** What this process reaches tokens by. */
interface Reach {
  readonly modulePath: string | undefined;
  readonly store: TokenStore;
  readonly prompt: PinPrompt;
}

/** There is one in a process, as it holds the sessions with tokens. */
let reached: Reach | undefined;

/**
 * A private key in a token (`EVP_PKEY *`), by OpenSSL's provider or else its engine. The token signs
 * once in each handshake, and this thread waits for it: SoftHSM takes 0.07 ms for ECDSA P-256 and
 * 0.6 ms for RSA 2048 here, a smart card some tenths of a second.
 *
 * @param text URI of the key with its PIN
 * @throws TlsError that names the key, why it cannot be used and what to do
 */
export function openTokenKey(text: string): CryptoObject {
  const uri = parsePkcs11Uri(text);
  const { store, prompt } = reach(uri.modulePath);
  prompt.asked = false;
  clearErrors();
  const key = store(uri.name, uri.pin);
  if (key === null) throw notFound(uri, store, prompt);
  clearErrors();
  return new CryptoObject(key, libcrypto().EVP_PKEY_free);
}

/**
 * Whether a key in a token is that of a certificate.
 *
 * @param text URI of the key with its PIN
 * @param certificate DER
 * @throws TlsError that names the key, why it cannot be used and what to do
 */
export function tokenKeyBelongsTo(text: string, certificate: Uint8Array): boolean {
  using key = openTokenKey(text);
  using subject = parseCertificate(certificate);
  const belongs = libcrypto().X509_check_private_key(subject.pointer, key.pointer) === 1;
  clearErrors();
  return belongs;
}

function reach(modulePath: string | undefined): Reach {
  if (reached === undefined) {
    if (modulePath !== undefined) checkModule(modulePath);
    clearErrors();
    const store = openProvider(modulePath) ?? openEngine(modulePath);
    if (store === undefined) throw unsupported();
    return reached = { modulePath, store, prompt: declinePrompts() };
  }
  if (reached.modulePath === modulePath) return reached;
  throw new TlsError(
    "token_module_other",
    `This process uses keys by the PKCS #11 module ${reached.modulePath ?? "of p11-kit"} already`,
    "Name the same module-path in each pkcs11: URI, or none so that p11-kit knows all modules",
  );
}

function checkModule(path: string): void {
  try {
    Deno.statSync(path);
  } catch (error) {
    throw new TlsError(
      "token_module_missing",
      `The PKCS #11 module ${path} cannot be used: ${errorText(error)}`,
      "Name the library that came with the token as module-path in the pkcs11: URI",
      { cause: error },
    );
  }
}

function unsupported(): TlsError {
  return new TlsError(
    "token_unsupported",
    `OpenSSL on this machine cannot use keys in tokens: ${errorReason()}`,
    "Install the package pkcs11-provider (Debian 13), or libengine-pkcs11-openssl (Debian 12)",
  );
}

/** Why there is no such key. A PIN is not tried twice: tokens count. */
function notFound(uri: Pkcs11Uri, store: TokenStore, prompt: PinPrompt): TlsError {
  const failure = takeError();
  if (failure && pinRefusals.includes(failure.reason)) {
    return pinRefused(uri, failure.reason === CKR.CKR_PIN_LOCKED);
  }
  const other = store(privateKeysOfToken(uri));
  clearErrors();
  if (other === null && prompt.asked) return pinRefused(uri, false);
  if (other === null) return tokenMissing(uri, failure?.text);
  libcrypto().EVP_PKEY_free(other);
  return new TlsError(
    "token_key_missing",
    `There is no private key ${uri.name} in its token`,
    "Look for its name with pkcs11-tool --login --list-objects",
  );
}

function pinRefused({ name }: Pkcs11Uri, locked: boolean): TlsError {
  return new TlsError(
    "pin_refused",
    `The token of ${name} does not take the PIN${locked ? ", and is locked" : ""}`,
    locked
      ? "Unlock it with the PIN of its security officer"
      : "Correct pin-source or pin-value in the pkcs11: URI before the token locks itself",
  );
}

function tokenMissing({ name }: Pkcs11Uri, reason: string | undefined): TlsError {
  return new TlsError(
    "token_missing",
    `There is no token with the key ${name}${reason === undefined ? "" : `: ${reason}`}`,
    "Look for it with pkcs11-tool --list-token-slots, and name its module with module-path",
  );
}
