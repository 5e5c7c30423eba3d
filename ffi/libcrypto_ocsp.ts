import { library } from "./library.ts";

/** The part of libcrypto that asks and answers whether a certificate is revoked (OCSP, RFC 6960). */
export const libcryptoOcsp = library({ sonames: ["libcrypto.so.3"], package: "libssl3" }, {
  OCSP_REQUEST_new: {
    parameters: [],
    result: "pointer",
  },
  OCSP_REQUEST_free: {
    parameters: [
      "pointer", // OCSP_REQUEST *a
    ],
    result: "void",
  },
  OCSP_cert_to_id: {
    parameters: [
      "pointer", // const EVP_MD *dgst
      "pointer", // const X509 *subject
      "pointer", // const X509 *issuer
    ],
    result: "pointer",
  },
  OCSP_CERTID_free: {
    parameters: [
      "pointer", // OCSP_CERTID *a
    ],
    result: "void",
  },
  OCSP_request_add0_id: {
    parameters: [
      "pointer", // OCSP_REQUEST *req
      "pointer", // OCSP_CERTID *cid
    ],
    result: "pointer",
  },
  OCSP_request_add1_nonce: {
    parameters: [
      "pointer", // OCSP_REQUEST *req
      "buffer", // unsigned char *val
      "i32", // int len
    ],
    result: "i32",
  },
  i2d_OCSP_REQUEST: {
    parameters: [
      "pointer", // const OCSP_REQUEST *a
      "buffer", // unsigned char **out
    ],
    result: "i32",
  },
  d2i_OCSP_RESPONSE: {
    parameters: [
      "pointer", // OCSP_RESPONSE **a
      "buffer", // const unsigned char **in
      "i64", // long len
    ],
    result: "pointer",
  },
  OCSP_RESPONSE_free: {
    parameters: [
      "pointer", // OCSP_RESPONSE *a
    ],
    result: "void",
  },
  OCSP_response_status: {
    parameters: [
      "pointer", // OCSP_RESPONSE *resp
    ],
    result: "i32",
  },
  OCSP_response_status_str: {
    parameters: [
      "i64", // long s
    ],
    result: "pointer",
  },
  OCSP_response_get1_basic: {
    parameters: [
      "pointer", // OCSP_RESPONSE *resp
    ],
    result: "pointer",
  },
  OCSP_BASICRESP_free: {
    parameters: [
      "pointer", // OCSP_BASICRESP *a
    ],
    result: "void",
  },
  OCSP_basic_verify: {
    parameters: [
      "pointer", // OCSP_BASICRESP *bs
      "pointer", // STACK_OF(X509) *certs
      "pointer", // X509_STORE *st
      "u64", // unsigned long flags
    ],
    result: "i32",
  },
  OCSP_check_nonce: {
    parameters: [
      "pointer", // OCSP_REQUEST *req
      "pointer", // OCSP_BASICRESP *bs
    ],
    result: "i32",
  },
  OCSP_resp_find_status: {
    parameters: [
      "pointer", // OCSP_BASICRESP *bs
      "pointer", // OCSP_CERTID *id
      "buffer", // int *status
      "buffer", // int *reason
      "buffer", // ASN1_GENERALIZEDTIME **revtime
      "buffer", // ASN1_GENERALIZEDTIME **thisupd
      "buffer", // ASN1_GENERALIZEDTIME **nextupd
    ],
    result: "i32",
  },
  OCSP_crl_reason_str: {
    parameters: [
      "i64", // long s
    ],
    result: "pointer",
  },
});

export const OCSP = {
  OCSP_RESPONSE_STATUS_SUCCESSFUL: 0,
  V_OCSP_CERTSTATUS_GOOD: 0,
  V_OCSP_CERTSTATUS_REVOKED: 1,
  V_OCSP_CERTSTATUS_UNKNOWN: 2,
  OCSP_REVOKED_STATUS_NOSTATUS: -1,
  OCSP_NOEXPLICIT: 0x20,
  OCSP_PARTIAL_CHAIN: 0x1000,
} as const;
