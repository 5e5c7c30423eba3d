import { cString } from "../../ffi/layout.ts";
import { ENGINE, libcryptoEngine } from "../../ffi/libcrypto_engine.ts";
import { libcryptoFailed } from "./x509.ts";
import type { TokenStore } from "./token_store.ts";

/**
 * OpenSSL's engine for keys in tokens, of the package libengine-pkcs11-openssl; undefined if it is
 * not installed. It is finished when this thread ends.
 *
 * @param modulePath the library that speaks to the token, p11-kit's unless told
 */
export function openEngine(modulePath: string | undefined): TokenStore | undefined {
  const engines = libcryptoEngine();
  engines.OPENSSL_init_crypto(BigInt(ENGINE.OPENSSL_INIT_ENGINE_DYNAMIC), null);
  const engine = engines.ENGINE_by_id(cString("pkcs11"));
  if (engine === null) return undefined;
  const control = (command: string, argument: string | null): void => {
    const value = argument === null ? null : cString(argument);
    if (engines.ENGINE_ctrl_cmd_string(engine, cString(command), value, 0) !== 1) {
      throw libcryptoFailed();
    }
  };
  // It would write what it does, and URIs with it, to standard error.
  control("QUIET", null);
  if (modulePath !== undefined) control("MODULE_PATH", modulePath);
  if (engines.ENGINE_init(engine) !== 1) throw libcryptoFailed();
  addEventListener("unload", () => {
    engines.ENGINE_finish(engine);
    engines.ENGINE_free(engine);
  });
  return (name, pin) => {
    if (pin !== undefined) control("PIN", pin);
    return engines.ENGINE_load_private_key(engine, cString(name), null, null);
  };
}
