import { library } from "./library.ts";

/**
 * Engines, the older way to have libcrypto use keys that it does not hold. OpenSSL 3 still has them,
 * as deprecated; OpenSSL 4 does not.
 */
export const libcryptoEngine = library({ sonames: ["libcrypto.so.3"], package: "libssl3" }, {
  OPENSSL_init_crypto: {
    parameters: [
      "u64", // uint64_t opts
      "pointer", // const OPENSSL_INIT_SETTINGS *settings
    ],
    result: "i32",
  },
  ENGINE_by_id: {
    parameters: [
      "buffer", // const char *id
    ],
    result: "pointer",
  },
  ENGINE_init: {
    parameters: [
      "pointer", // ENGINE *e
    ],
    result: "i32",
  },
  ENGINE_finish: {
    parameters: [
      "pointer", // ENGINE *e
    ],
    result: "i32",
  },
  ENGINE_free: {
    parameters: [
      "pointer", // ENGINE *e
    ],
    result: "i32",
  },
  ENGINE_ctrl_cmd_string: {
    parameters: [
      "pointer", // ENGINE *e
      "buffer", // const char *cmd_name
      "buffer", // const char *arg
      "i32", // int cmd_optional
    ],
    result: "i32",
  },
  ENGINE_load_private_key: {
    parameters: [
      "pointer", // ENGINE *e
      "buffer", // const char *key_id
      "pointer", // UI_METHOD *ui_method
      "pointer", // void *callback_data
    ],
    result: "pointer",
  },
});

export const ENGINE = {
  OPENSSL_INIT_ENGINE_DYNAMIC: 0x400,
} as const;
