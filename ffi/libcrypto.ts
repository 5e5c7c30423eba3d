import { library } from "./library.ts";

/** libcrypto of OpenSSL 3: keys, certificates, their revocation, and the queue of errors. Names are C's. */
export const libcrypto = library({ sonames: ["libcrypto.so.3"], package: "libssl3" }, {
  OpenSSL_version_num: {
    parameters: [],
    result: "u64", // unsigned long
  },
  ERR_get_error: {
    parameters: [],
    result: "u64", // unsigned long
  },
  ERR_clear_error: {
    parameters: [],
    result: "void",
  },
  ERR_error_string_n: {
    parameters: [
      "u64", // unsigned long e
      "buffer", // char *buf
      "usize", // size_t len
    ],
    result: "void",
  },
  CRYPTO_memdup: {
    parameters: [
      "buffer", // const void *str
      "usize", // size_t siz
      "buffer", // const char *file
      "i32", // int line
    ],
    result: "pointer",
  },
  BIO_new_mem_buf: {
    parameters: [
      "buffer", // const void *buf
      "i32", // int len
    ],
    result: "pointer",
  },
  BIO_free: {
    parameters: [
      "pointer", // BIO *a
    ],
    result: "i32",
  },
  BIO_ctrl: {
    parameters: [
      "pointer", // BIO *bp
      "i32", // int cmd
      "i64", // long larg
      "pointer", // void *parg
    ],
    result: "i64", // long
  },
  PEM_read_bio_X509: {
    parameters: [
      "pointer", // BIO *bp
      "pointer", // X509 **x
      "pointer", // pem_password_cb *cb
      "pointer", // void *u
    ],
    result: "pointer",
  },
  PEM_read_bio_X509_CRL: {
    parameters: [
      "pointer", // BIO *bp
      "pointer", // X509_CRL **x
      "pointer", // pem_password_cb *cb
      "pointer", // void *u
    ],
    result: "pointer",
  },
  PEM_read_bio_PrivateKey: {
    parameters: [
      "pointer", // BIO *bp
      "pointer", // EVP_PKEY **x
      "pointer", // pem_password_cb *cb
      "pointer", // void *u
    ],
    result: "pointer",
  },
  EVP_PKEY_free: {
    parameters: [
      "pointer", // EVP_PKEY *pkey
    ],
    result: "void",
  },
  d2i_X509: {
    parameters: [
      "pointer", // X509 **a
      "buffer", // const unsigned char **ppin
      "i64", // long length
    ],
    result: "pointer",
  },
  i2d_X509: {
    parameters: [
      "pointer", // const X509 *a
      "pointer", // unsigned char **ppout
    ],
    result: "i32",
  },
  X509_free: {
    parameters: [
      "pointer", // X509 *a
    ],
    result: "void",
  },
  X509_check_issued: {
    parameters: [
      "pointer", // X509 *issuer
      "pointer", // X509 *subject
    ],
    result: "i32",
  },
  X509_get0_pubkey: {
    parameters: [
      "pointer", // const X509 *x
    ],
    result: "pointer",
  },
  X509_check_private_key: {
    parameters: [
      "pointer", // const X509 *x509
      "pointer", // const EVP_PKEY *pkey
    ],
    result: "i32",
  },
  X509_verify: {
    parameters: [
      "pointer", // X509 *a
      "pointer", // EVP_PKEY *r
    ],
    result: "i32",
  },
  d2i_X509_CRL: {
    parameters: [
      "pointer", // X509_CRL **a
      "buffer", // const unsigned char **ppin
      "i64", // long length
    ],
    result: "pointer",
  },
  X509_CRL_free: {
    parameters: [
      "pointer", // X509_CRL *a
    ],
    result: "void",
  },
  X509_CRL_get0_lastUpdate: {
    parameters: [
      "pointer", // const X509_CRL *crl
    ],
    result: "pointer",
  },
  X509_CRL_get0_nextUpdate: {
    parameters: [
      "pointer", // const X509_CRL *crl
    ],
    result: "pointer",
  },
  X509_get_X509_PUBKEY: {
    parameters: [
      "pointer", // const X509 *x
    ],
    result: "pointer",
  },
  i2d_X509_PUBKEY: {
    parameters: [
      "pointer", // const X509_PUBKEY *a
      "pointer", // unsigned char **ppout
    ],
    result: "i32",
  },
  X509_STORE_new: {
    parameters: [],
    result: "pointer",
  },
  X509_STORE_free: {
    parameters: [
      "pointer", // X509_STORE *xs
    ],
    result: "void",
  },
  X509_STORE_get0_param: {
    parameters: [
      "pointer", // const X509_STORE *xs
    ],
    result: "pointer",
  },
  X509_STORE_add_cert: {
    parameters: [
      "pointer", // X509_STORE *xs
      "pointer", // X509 *x
    ],
    result: "i32",
  },
  X509_STORE_add_crl: {
    parameters: [
      "pointer", // X509_STORE *xs
      "pointer", // X509_CRL *x
    ],
    result: "i32",
  },
  X509_STORE_set_flags: {
    parameters: [
      "pointer", // X509_STORE *xs
      "u64", // unsigned long flags
    ],
    result: "i32",
  },
  X509_VERIFY_PARAM_set1: {
    parameters: [
      "pointer", // X509_VERIFY_PARAM *to
      "pointer", // const X509_VERIFY_PARAM *from
    ],
    result: "i32",
  },
  X509_VERIFY_PARAM_set_auth_level: {
    parameters: [
      "pointer", // X509_VERIFY_PARAM *param
      "i32", // int auth_level
    ],
    result: "void",
  },
  X509_VERIFY_PARAM_set_time: {
    parameters: [
      "pointer", // X509_VERIFY_PARAM *param
      "i64", // time_t t
    ],
    result: "void",
  },
  X509_VERIFY_PARAM_set1_host: {
    parameters: [
      "pointer", // X509_VERIFY_PARAM *param
      "buffer", // const char *name
      "usize", // size_t namelen
    ],
    result: "i32",
  },
  X509_VERIFY_PARAM_set1_ip_asc: {
    parameters: [
      "pointer", // X509_VERIFY_PARAM *param
      "buffer", // const char *ipasc
    ],
    result: "i32",
  },
  X509_VERIFY_PARAM_set_hostflags: {
    parameters: [
      "pointer", // X509_VERIFY_PARAM *param
      "u32", // unsigned int flags
    ],
    result: "void",
  },
  X509_check_ca: {
    parameters: [
      "pointer", // X509 *x
    ],
    result: "i32",
  },
  X509_verify_cert: {
    parameters: [
      "pointer", // X509_STORE_CTX *ctx
    ],
    result: "i32",
  },
  X509_STORE_CTX_new: {
    parameters: [],
    result: "pointer",
  },
  X509_STORE_CTX_free: {
    parameters: [
      "pointer", // X509_STORE_CTX *ctx
    ],
    result: "void",
  },
  X509_STORE_CTX_init: {
    parameters: [
      "pointer", // X509_STORE_CTX *ctx
      "pointer", // X509_STORE *trust_store
      "pointer", // X509 *target
      "pointer", // STACK_OF(X509) *untrusted
    ],
    result: "i32",
  },
  X509_STORE_CTX_set_default: {
    parameters: [
      "pointer", // X509_STORE_CTX *ctx
      "buffer", // const char *name
    ],
    result: "i32",
  },
  X509_STORE_CTX_get0_param: {
    parameters: [
      "pointer", // const X509_STORE_CTX *ctx
    ],
    result: "pointer",
  },
  X509_STORE_CTX_set_verify_cb: {
    parameters: [
      "pointer", // X509_STORE_CTX *ctx
      "function", // X509_STORE_CTX_verify_cb verify
    ],
    result: "void",
  },
  X509_STORE_CTX_get_error: {
    parameters: [
      "pointer", // const X509_STORE_CTX *ctx
    ],
    result: "i32",
  },
  X509_STORE_CTX_set_error: {
    parameters: [
      "pointer", // X509_STORE_CTX *ctx
      "i32", // int s
    ],
    result: "void",
  },
  X509_STORE_CTX_get_error_depth: {
    parameters: [
      "pointer", // const X509_STORE_CTX *ctx
    ],
    result: "i32",
  },
  X509_STORE_CTX_get_current_cert: {
    parameters: [
      "pointer", // const X509_STORE_CTX *ctx
    ],
    result: "pointer",
  },
  X509_STORE_CTX_get0_chain: {
    parameters: [
      "pointer", // const X509_STORE_CTX *ctx
    ],
    result: "pointer",
  },
  X509_verify_cert_error_string: {
    parameters: [
      "i64", // long n
    ],
    result: "pointer",
  },
  OPENSSL_sk_num: {
    parameters: [
      "pointer", // const OPENSSL_STACK *
    ],
    result: "i32",
  },
  OPENSSL_sk_value: {
    parameters: [
      "pointer", // const OPENSSL_STACK *
      "i32", // int
    ],
    result: "pointer",
  },
  OPENSSL_sk_new_null: {
    parameters: [],
    result: "pointer",
  },
  OPENSSL_sk_push: {
    parameters: [
      "pointer", // OPENSSL_STACK *st
      "pointer", // const void *data
    ],
    result: "i32",
  },
  OPENSSL_sk_free: {
    parameters: [
      "pointer", // OPENSSL_STACK *st
    ],
    result: "void",
  },
  ASN1_TIME_set: {
    parameters: [
      "pointer", // ASN1_TIME *s
      "i64", // time_t t
    ],
    result: "pointer",
  },
  ASN1_TIME_free: {
    parameters: [
      "pointer", // ASN1_TIME *a
    ],
    result: "void",
  },
  ASN1_TIME_diff: {
    parameters: [
      "buffer", // int *pday
      "buffer", // int *psec
      "pointer", // const ASN1_TIME *from
      "pointer", // const ASN1_TIME *to
    ],
    result: "i32",
  },
  EVP_sha1: {
    parameters: [],
    result: "pointer",
  },
  EVP_sha256: {
    parameters: [],
    result: "pointer",
  },
});
