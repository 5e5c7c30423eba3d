import { cString } from "../../ffi/layout.ts";
import { libcryptoStore } from "../../ffi/libcrypto_store.ts";
import { libcryptoFailed } from "./x509.ts";

/** Whether OpenSSL has asked for a PIN, which it gets from nobody. */
export interface PinPrompt {
  asked: boolean;
}

/** Has OpenSSL in this process decline where it would ask for a PIN on the terminal. */
export function declinePrompts(): PinPrompt {
  const { UI_create_method, UI_method_set_opener, UI_set_default_method } = libcryptoStore();
  const method = UI_create_method(cString("verbseal"));
  if (method === null) throw libcryptoFailed();
  const prompt = { asked: false };
  // Both are never freed: OpenSSL keeps them as long as it is loaded.
  const opener = new Deno.UnsafeCallback({ parameters: ["pointer"], result: "i32" }, () => {
    prompt.asked = true;
    return 0;
  });
  UI_method_set_opener(method, opener.pointer);
  UI_set_default_method(method);
  return prompt;
}
