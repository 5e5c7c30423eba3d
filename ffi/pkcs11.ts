/** What a token says to a PIN (PKCS #11, section 5.1); OpenSSL's errors have it as their reason. */
export const CKR = {
  CKR_PIN_INCORRECT: 0xa0,
  CKR_PIN_INVALID: 0xa1,
  CKR_PIN_LEN_RANGE: 0xa2,
  CKR_PIN_EXPIRED: 0xa3,
  CKR_PIN_LOCKED: 0xa4,
} as const;
