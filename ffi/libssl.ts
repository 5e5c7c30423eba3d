import { library } from "./library.ts";

/** libssl of OpenSSL 3. Names are C's; where C has a macro over `SSL_ctrl`, its command stands in {@linkcode SSL}. */
export const libssl = library({ sonames: ["libssl.so.3"], package: "libssl3" }, {
  TLS_server_method: {
    parameters: [],
    result: "pointer",
  },
  TLS_client_method: {
    parameters: [],
    result: "pointer",
  },
  SSL_CTX_new: {
    parameters: [
      "pointer", // const SSL_METHOD *meth
    ],
    result: "pointer",
  },
  SSL_CTX_free: {
    parameters: [
      "pointer", // SSL_CTX *
    ],
    result: "void",
  },
  SSL_CTX_ctrl: {
    parameters: [
      "pointer", // SSL_CTX *ctx
      "i32", // int cmd
      "i64", // long larg
      "pointer", // void *parg
    ],
    result: "i64", // long
  },
  SSL_CTX_callback_ctrl: {
    parameters: [
      "pointer", // SSL_CTX *
      "i32", // int
      "function", // void (*)(void)
    ],
    result: "i64", // long
  },
  SSL_CTX_set_options: {
    parameters: [
      "pointer", // SSL_CTX *ctx
      "u64", // uint64_t op
    ],
    result: "u64",
  },
  SSL_CTX_set_cipher_list: {
    parameters: [
      "pointer", // SSL_CTX *
      "buffer", // const char *str
    ],
    result: "i32",
  },
  SSL_CTX_set_ciphersuites: {
    parameters: [
      "pointer", // SSL_CTX *ctx
      "buffer", // const char *str
    ],
    result: "i32",
  },
  SSL_CTX_set_num_tickets: {
    parameters: [
      "pointer", // SSL_CTX *ctx
      "usize", // size_t num_tickets
    ],
    result: "i32",
  },
  SSL_set_num_tickets: {
    parameters: [
      "pointer", // SSL *s
      "usize", // size_t num_tickets
    ],
    result: "i32",
  },
  SSL_CTX_set_session_id_context: {
    parameters: [
      "pointer", // SSL_CTX *ctx
      "buffer", // const unsigned char *sid_ctx
      "u32", // unsigned int sid_ctx_len
    ],
    result: "i32",
  },
  SSL_CTX_use_certificate: {
    parameters: [
      "pointer", // SSL_CTX *ctx
      "pointer", // X509 *x
    ],
    result: "i32",
  },
  SSL_CTX_use_PrivateKey: {
    parameters: [
      "pointer", // SSL_CTX *ctx
      "pointer", // EVP_PKEY *pkey
    ],
    result: "i32",
  },
  SSL_CTX_set_verify: {
    parameters: [
      "pointer", // SSL_CTX *ctx
      "i32", // int mode
      "pointer", // SSL_verify_cb callback
    ],
    result: "void",
  },
  SSL_CTX_set_verify_depth: {
    parameters: [
      "pointer", // SSL_CTX *ctx
      "i32", // int depth
    ],
    result: "void",
  },
  SSL_CTX_set_default_verify_paths: {
    parameters: [
      "pointer", // SSL_CTX *ctx
    ],
    result: "i32",
  },
  SSL_CTX_get_cert_store: {
    parameters: [
      "pointer", // const SSL_CTX *
    ],
    result: "pointer",
  },
  SSL_CTX_add_client_CA: {
    parameters: [
      "pointer", // SSL_CTX *ctx
      "pointer", // X509 *x
    ],
    result: "i32",
  },
  SSL_CTX_set_alpn_select_cb: {
    parameters: [
      "pointer", // SSL_CTX *ctx
      "function", // SSL_CTX_alpn_select_cb_func cb
      "pointer", // void *arg
    ],
    result: "void",
  },
  SSL_select_next_proto: {
    parameters: [
      "pointer", // unsigned char **out
      "pointer", // unsigned char *outlen
      "buffer", // const unsigned char *server
      "u32", // unsigned int server_len
      "pointer", // const unsigned char *client
      "u32", // unsigned int client_len
    ],
    result: "i32",
  },
  SSL_new: {
    parameters: [
      "pointer", // SSL_CTX *ctx
    ],
    result: "pointer",
  },
  SSL_free: {
    parameters: [
      "pointer", // SSL *ssl
    ],
    result: "void",
  },
  SSL_ctrl: {
    parameters: [
      "pointer", // SSL *ssl
      "i32", // int cmd
      "i64", // long larg
      "buffer", // void *parg
    ],
    result: "i64", // long
  },
  SSL_set_options: {
    parameters: [
      "pointer", // SSL *s
      "u64", // uint64_t op
    ],
    result: "u64",
  },
  /** A macro over SSL_ctrl, as no other command wants a pointer that it keeps. */
  SSL_set_tlsext_status_ocsp_resp: {
    name: "SSL_ctrl",
    parameters: [
      "pointer", // SSL *ssl
      "i32", // int cmd
      "i64", // long larg
      "pointer", // void *parg
    ],
    result: "i64", // long
  },
  /** A macro over SSL_CTX_ctrl, as no other command wants a buffer. */
  SSL_CTX_set_tlsext_ticket_keys: {
    name: "SSL_CTX_ctrl",
    parameters: [
      "pointer", // SSL_CTX *ctx
      "i32", // int cmd
      "i64", // long larg
      "buffer", // void *parg
    ],
    result: "i64", // long
  },
  SSL_set_fd: {
    parameters: [
      "pointer", // SSL *s
      "i32", // int fd
    ],
    result: "i32",
  },
  SSL_set_alpn_protos: {
    parameters: [
      "pointer", // SSL *ssl
      "buffer", // const unsigned char *protos
      "u32", // unsigned int protos_len
    ],
    result: "i32",
  },
  SSL_get0_alpn_selected: {
    parameters: [
      "pointer", // const SSL *ssl
      "buffer", // const unsigned char **data
      "buffer", // unsigned int *len
    ],
    result: "void",
  },
  SSL_get0_param: {
    parameters: [
      "pointer", // SSL *ssl
    ],
    result: "pointer",
  },
  SSL_set_accept_state: {
    parameters: [
      "pointer", // SSL *s
    ],
    result: "void",
  },
  SSL_set_connect_state: {
    parameters: [
      "pointer", // SSL *s
    ],
    result: "void",
  },
  SSL_do_handshake: {
    parameters: [
      "pointer", // SSL *s
    ],
    result: "i32",
  },
  SSL_read: {
    parameters: [
      "pointer", // SSL *ssl
      "buffer", // void *buf
      "i32", // int num
    ],
    result: "i32",
  },
  SSL_peek: {
    parameters: [
      "pointer", // SSL *ssl
      "buffer", // void *buf
      "i32", // int num
    ],
    result: "i32",
  },
  SSL_write: {
    parameters: [
      "pointer", // SSL *ssl
      "buffer", // const void *buf
      "i32", // int num
    ],
    result: "i32",
  },
  SSL_sendfile: {
    parameters: [
      "pointer", // SSL *s
      "i32", // int fd
      "i64", // off_t offset
      "usize", // size_t size
      "i32", // int flags
    ],
    result: "isize",
  },
  SSL_shutdown: {
    parameters: [
      "pointer", // SSL *s
    ],
    result: "i32",
  },
  SSL_get_error: {
    parameters: [
      "pointer", // const SSL *s
      "i32", // int ret_code
    ],
    result: "i32",
  },
  SSL_get_verify_result: {
    parameters: [
      "pointer", // const SSL *ssl
    ],
    result: "i64", // long
  },
  SSL_get_security_level: {
    parameters: [
      "pointer", // const SSL *s
    ],
    result: "i32",
  },
  SSL_get0_verified_chain: {
    parameters: [
      "pointer", // const SSL *s
    ],
    result: "pointer",
  },
  SSL_get1_peer_certificate: {
    parameters: [
      "pointer", // const SSL *s
    ],
    result: "pointer",
  },
  SSL_get_version: {
    parameters: [
      "pointer", // const SSL *s
    ],
    result: "pointer",
  },
  SSL_get_current_cipher: {
    parameters: [
      "pointer", // const SSL *s
    ],
    result: "pointer",
  },
  SSL_CIPHER_get_name: {
    parameters: [
      "pointer", // const SSL_CIPHER *c
    ],
    result: "pointer",
  },
  SSL_CTX_set_session_ticket_cb: {
    parameters: [
      "pointer", // SSL_CTX *ctx
      "function", // SSL_CTX_generate_session_ticket_fn gen_cb
      "function", // SSL_CTX_decrypt_session_ticket_fn dec_cb
      "pointer", // void *arg
    ],
    result: "i32",
  },
  SSL_get_SSL_CTX: {
    parameters: [
      "pointer", // const SSL *ssl
    ],
    result: "pointer",
  },
  SSL_SESSION_get0_peer: {
    parameters: [
      "pointer", // SSL_SESSION *s
    ],
    result: "pointer",
  },
  SSL_get_session: {
    parameters: [
      "pointer", // const SSL *ssl
    ],
    result: "pointer",
  },
  SSL_SESSION_set1_ticket_appdata: {
    parameters: [
      "pointer", // SSL_SESSION *ss
      "buffer", // const void *data
      "usize", // size_t len
    ],
    result: "i32",
  },
  SSL_SESSION_get0_ticket_appdata: {
    parameters: [
      "pointer", // SSL_SESSION *ss
      "buffer", // void **data
      "buffer", // size_t *len
    ],
    result: "i32",
  },
  SSL_CTX_sess_set_new_cb: {
    parameters: [
      "pointer", // SSL_CTX *ctx
      "function", // int (*new_session_cb)(SSL *ssl, SSL_SESSION *sess)
    ],
    result: "void",
  },
  SSL_SESSION_dup: {
    parameters: [
      "pointer", // const SSL_SESSION *src
    ],
    result: "pointer",
  },
  SSL_SESSION_free: {
    parameters: [
      "pointer", // SSL_SESSION *ses
    ],
    result: "void",
  },
  SSL_SESSION_get_protocol_version: {
    parameters: [
      "pointer", // const SSL_SESSION *s
    ],
    result: "i32",
  },
  SSL_set_session: {
    parameters: [
      "pointer", // SSL *to
      "pointer", // SSL_SESSION *session
    ],
    result: "i32",
  },
  SSL_session_reused: {
    parameters: [
      "pointer", // const SSL *s
    ],
    result: "i32",
  },
  SSL_get_wbio: {
    parameters: [
      "pointer", // const SSL *s
    ],
    result: "pointer",
  },
  SSL_get_rbio: {
    parameters: [
      "pointer", // const SSL *s
    ],
    result: "pointer",
  },
});

/** Constants of openssl/ssl.h, tls1.h, x509_vfy.h and bio.h, checked against them like the structures. */
export const SSL = {
  SSL_ERROR_WANT_READ: 2,
  SSL_ERROR_WANT_WRITE: 3,
  SSL_ERROR_ZERO_RETURN: 6,
  SSL_CTRL_MODE: 33,
  SSL_CTRL_SET_SESS_CACHE_MODE: 44,
  SSL_CTRL_SET_TLSEXT_HOSTNAME: 55,
  SSL_CTRL_SET_TLSEXT_TICKET_KEYS: 59,
  SSL_CTRL_SET_TLSEXT_STATUS_REQ_CB: 63,
  SSL_CTRL_SET_TLSEXT_STATUS_REQ_CB_ARG: 64,
  SSL_CTRL_SET_TLSEXT_STATUS_REQ_TYPE: 65,
  SSL_CTRL_GET_TLSEXT_STATUS_REQ_OCSP_RESP: 70,
  SSL_CTRL_SET_TLSEXT_STATUS_REQ_OCSP_RESP: 71,
  SSL_CTRL_CLEAR_MODE: 78,
  SSL_CTRL_CHAIN_CERT: 89,
  SSL_CTRL_SET_MIN_PROTO_VERSION: 123,
  SSL_CTRL_SET_MAX_PROTO_VERSION: 124,
  TLSEXT_NAMETYPE_host_name: 0,
  TLSEXT_STATUSTYPE_ocsp: 1,
  TLS1_2_VERSION: 0x0303,
  TLS1_3_VERSION: 0x0304,
  SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER: 2,
  SSL_MODE_AUTO_RETRY: 4,
  SSL_MODE_RELEASE_BUFFERS: 0x10,
  SSL_OP_ENABLE_KTLS: 1 << 3,
  SSL_OP_NO_TICKET: 1 << 14,
  SSL_OP_CIPHER_SERVER_PREFERENCE: 1 << 22,
  SSL_OP_NO_RENEGOTIATION: 1 << 30,
  SSL_SESS_CACHE_OFF: 0,
  SSL_SESS_CACHE_CLIENT: 1,
  SSL_SESS_CACHE_NO_INTERNAL: 0x300,
  SSL_VERIFY_PEER: 1,
  SSL_VERIFY_FAIL_IF_NO_PEER_CERT: 2,
  SSL_TLSEXT_ERR_OK: 0,
  SSL_TLSEXT_ERR_ALERT_FATAL: 2,
  SSL_TLSEXT_ERR_NOACK: 3,
  SSL_TICKET_SUCCESS: 5,
  SSL_TICKET_SUCCESS_RENEW: 6,
  SSL_TICKET_RETURN_IGNORE_RENEW: 2,
  SSL_TICKET_RETURN_USE: 3,
  SSL_TICKET_RETURN_USE_RENEW: 4,
  OPENSSL_NPN_NEGOTIATED: 1,
  BIO_CTRL_GET_KTLS_SEND: 73,
  BIO_CTRL_GET_KTLS_RECV: 76,
  X509_V_FLAG_CRL_CHECK: 0x4,
  X509_V_FLAG_CRL_CHECK_ALL: 0x8,
  X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS: 0x4,
  X509_CHECK_FLAG_NEVER_CHECK_SUBJECT: 0x20,
  ERR_LIB_SSL: 20,
} as const;

/** Reasons of libssl's errors (openssl/sslerr.h); those from 1000 on are alerts of the peer. */
export const SSL_R = {
  SSL_R_CERTIFICATE_VERIFY_FAILED: 134,
  SSL_R_HTTPS_PROXY_REQUEST: 155,
  SSL_R_HTTP_REQUEST: 156,
  SSL_R_NO_SHARED_CIPHER: 193,
  SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE: 199,
  SSL_R_NO_APPLICATION_PROTOCOL: 235,
  SSL_R_UNSUPPORTED_PROTOCOL: 258,
  SSL_R_WRONG_VERSION_NUMBER: 267,
  SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC: 281,
  SSL_R_UNEXPECTED_EOF_WHILE_READING: 294,
  SSL_R_NO_RENEGOTIATION: 339,
  SSL_R_INAPPROPRIATE_FALLBACK: 373,
  SSL_R_SSLV3_ALERT_BAD_RECORD_MAC: 1020,
  SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE: 1040,
  SSL_R_SSLV3_ALERT_BAD_CERTIFICATE: 1042,
  SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE: 1043,
  SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED: 1044,
  SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED: 1045,
  SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN: 1046,
  SSL_R_TLSV1_ALERT_UNKNOWN_CA: 1048,
  SSL_R_TLSV1_ALERT_PROTOCOL_VERSION: 1070,
  SSL_R_TLSV1_ALERT_INAPPROPRIATE_FALLBACK: 1086,
  SSL_R_TLSV1_BAD_CERTIFICATE_STATUS_RESPONSE: 1113,
  SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED: 1116,
  SSL_R_TLSV1_ALERT_NO_APPLICATION_PROTOCOL: 1120,
} as const;

/** What X509_verify_cert(3) finds wrong (openssl/x509_vfy.h). */
export const X509_V = {
  X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT: 2,
  X509_V_ERR_UNABLE_TO_GET_CRL: 3,
  X509_V_ERR_CERT_NOT_YET_VALID: 9,
  X509_V_ERR_CERT_HAS_EXPIRED: 10,
  X509_V_ERR_CRL_NOT_YET_VALID: 11,
  X509_V_ERR_CRL_HAS_EXPIRED: 12,
  X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT: 18,
  X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN: 19,
  X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 20,
  X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE: 21,
  X509_V_ERR_CERT_CHAIN_TOO_LONG: 22,
  X509_V_ERR_CERT_REVOKED: 23,
  X509_V_ERR_PATH_LENGTH_EXCEEDED: 25,
  X509_V_ERR_INVALID_PURPOSE: 26,
  X509_V_ERR_CERT_UNTRUSTED: 27,
  X509_V_ERR_CERT_REJECTED: 28,
  X509_V_ERR_UNHANDLED_CRITICAL_EXTENSION: 34,
  X509_V_ERR_INVALID_NON_CA: 37,
  X509_V_ERR_HOSTNAME_MISMATCH: 62,
  X509_V_ERR_IP_ADDRESS_MISMATCH: 64,
  X509_V_ERR_OCSP_CERT_UNKNOWN: 75,
} as const;
