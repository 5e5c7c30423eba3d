import { library } from "./library.ts";

/**
 * Providers, and what they find under a URI (OSSL_STORE), the newer way to have libcrypto use keys
 * that it does not hold; and how it asks for a PIN (UI).
 */
export const libcryptoStore = library({ sonames: ["libcrypto.so.3"], package: "libssl3" }, {
  OSSL_PROVIDER_try_load: {
    parameters: [
      "pointer", // OSSL_LIB_CTX *libctx
      "buffer", // const char *name
      "i32", // int retain_fallbacks
    ],
    result: "pointer",
  },
  OSSL_STORE_open: {
    parameters: [
      "buffer", // const char *uri
      "pointer", // const UI_METHOD *ui_method
      "pointer", // void *ui_data
      "pointer", // OSSL_STORE_post_process_info_fn post_process
      "pointer", // void *post_process_data
    ],
    result: "pointer",
  },
  OSSL_STORE_expect: {
    parameters: [
      "pointer", // OSSL_STORE_CTX *ctx
      "i32", // int expected_type
    ],
    result: "i32",
  },
  OSSL_STORE_load: {
    parameters: [
      "pointer", // OSSL_STORE_CTX *ctx
    ],
    result: "pointer",
  },
  OSSL_STORE_close: {
    parameters: [
      "pointer", // OSSL_STORE_CTX *ctx
    ],
    result: "i32",
  },
  OSSL_STORE_INFO_get1_PKEY: {
    parameters: [
      "pointer", // const OSSL_STORE_INFO *info
    ],
    result: "pointer",
  },
  OSSL_STORE_INFO_free: {
    parameters: [
      "pointer", // OSSL_STORE_INFO *info
    ],
    result: "void",
  },
  UI_create_method: {
    parameters: [
      "buffer", // const char *name
    ],
    result: "pointer",
  },
  UI_method_set_opener: {
    parameters: [
      "pointer", // UI_METHOD *method
      "function", // int (*opener) (UI *ui)
    ],
    result: "i32",
  },
  UI_set_default_method: {
    parameters: [
      "pointer", // const UI_METHOD *meth
    ],
    result: "void",
  },
});

export const OSSL_STORE = {
  OSSL_STORE_INFO_PKEY: 4,
} as const;
