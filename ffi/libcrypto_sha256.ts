import { library } from "./library.ts";

/**
 * SHA-256 whose state is memory of the caller's, so that it is copied as bytes are and nothing has to
 * be freed. `Async` marks the call that runs on a thread of its own.
 */
export const libcryptoSha256 = library({ sonames: ["libcrypto.so.3"], package: "libssl3" }, {
  SHA256_Init: {
    parameters: [
      "buffer", // SHA256_CTX *c
    ],
    result: "i32",
  },
  SHA256_Update: {
    parameters: [
      "buffer", // SHA256_CTX *c
      "pointer", // const void *data
      "usize", // size_t len
    ],
    result: "i32",
  },
  SHA256_UpdateAsync: {
    name: "SHA256_Update",
    parameters: [
      "pointer", // SHA256_CTX *c
      "pointer", // const void *data
      "usize", // size_t len
    ],
    result: "i32",
    nonblocking: true,
  },
  SHA256_Final: {
    parameters: [
      "buffer", // unsigned char *md
      "buffer", // SHA256_CTX *c
    ],
    result: "i32",
  },
});

/** Bytes of a SHA256_CTX, of openssl/sha.h. */
export const SHA256_CTX_BYTES = 112;
