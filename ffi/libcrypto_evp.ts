import { library } from "./library.ts";

/**
 * Authenticated encryption (EVP). Addresses are integers: a pointer object for each record would be
 * ten times as dear.
 */
export const libcryptoEvp = library({ sonames: ["libcrypto.so.3"], package: "libssl3" }, {
  EVP_aes_256_gcm: {
    parameters: [],
    result: "pointer",
  },
  EVP_chacha20_poly1305: {
    parameters: [],
    result: "pointer",
  },
  EVP_CIPHER_CTX_new: {
    parameters: [],
    result: "pointer",
  },
  EVP_CIPHER_CTX_free: {
    parameters: [
      "pointer", // EVP_CIPHER_CTX *ctx
    ],
    result: "void",
  },
  EVP_CIPHER_CTX_ctrl: {
    parameters: [
      "pointer", // EVP_CIPHER_CTX *ctx
      "i32", // int type
      "i32", // int arg
      "usize", // void *ptr
    ],
    result: "i32",
  },
  EVP_CipherInit_ex: {
    parameters: [
      "pointer", // EVP_CIPHER_CTX *ctx
      "pointer", // const EVP_CIPHER *cipher
      "pointer", // ENGINE *impl
      "pointer", // const unsigned char *key
      "pointer", // const unsigned char *iv
      "i32", // int enc
    ],
    result: "i32",
  },
  EVP_CipherUpdate: {
    parameters: [
      "pointer", // EVP_CIPHER_CTX *ctx
      "usize", // unsigned char *out
      "pointer", // int *outl
      "usize", // const unsigned char *in
      "i32", // int inl
    ],
    result: "i32",
  },
  EVP_CipherFinal_ex: {
    parameters: [
      "pointer", // EVP_CIPHER_CTX *ctx
      "usize", // unsigned char *outm
      "pointer", // int *outl
    ],
    result: "i32",
  },
});

/** Constants of openssl/evp.h. */
export const EVP = {
  EVP_CTRL_AEAD_GET_TAG: 0x10,
  EVP_CTRL_AEAD_SET_TAG: 0x11,
} as const;
