import { cString } from "../../ffi/layout.ts";
import { libcryptoStore, OSSL_STORE } from "../../ffi/libcrypto_store.ts";
import { pkcs11UriText } from "./pkcs11_uri.ts";
import type { TokenStore } from "./token_store.ts";

/**
 * OpenSSL's provider for keys in tokens, of the package pkcs11-provider; undefined if it is not
 * installed. OpenSSL unloads it when the process ends: SoftHSM does not survive it earlier.
 *
 * @param modulePath the library that speaks to the token, p11-kit's unless told
 */
export function openProvider(modulePath: string | undefined): TokenStore | undefined {
  const { OSSL_PROVIDER_try_load } = libcryptoStore();
  // The only way to tell it that all its versions know (provider-pkcs11(7)).
  if (modulePath !== undefined) Deno.env.set("PKCS11_PROVIDER_MODULE", modulePath);
  // First, as what comes first is taken for all that is not the token's.
  OSSL_PROVIDER_try_load(null, cString("default"), 1);
  if (OSSL_PROVIDER_try_load(null, cString("pkcs11"), 1) === null) return undefined;
  return (name, pin) => loadKey(pkcs11UriText({ name, ...(pin === undefined ? {} : { pin }) }));
}

function loadKey(uri: string): Deno.PointerValue {
  const store = libcryptoStore();
  const context = store.OSSL_STORE_open(cString(uri), null, null, null, null);
  if (context === null) return null;
  store.OSSL_STORE_expect(context, OSSL_STORE.OSSL_STORE_INFO_PKEY);
  const found = store.OSSL_STORE_load(context);
  const key = found === null ? null : store.OSSL_STORE_INFO_get1_PKEY(found);
  store.OSSL_STORE_INFO_free(found);
  store.OSSL_STORE_close(context);
  return key;
}
