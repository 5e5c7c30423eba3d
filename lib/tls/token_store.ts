/**
 * Finds a private key (`EVP_PKEY *`, to be freed by the caller) in a token; null, with OpenSSL's
 * errors, where it finds none.
 *
 * @param name URI without a query
 * @param pin opens the token; without it OpenSSL asks for one where a token of this URI is shut
 */
export type TokenStore = (name: string, pin?: string) => Deno.PointerValue;
