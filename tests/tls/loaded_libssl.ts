/**
 * Loads libssl, and what it calls back, when imported: Deno's check for leaks wants that done before
 * the first test.
 */
import { listen } from "../../lib/tls/backend.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import { TlsContext } from "../../lib/tls/openssl_context.ts";

const { ca, server: identity } = await createCertificates({ hosts: [], days: 1 });
const trust = { authorities: [ca.certificate] };
const clientAuthentication = { trust, required: true };
const options = { hostname: "127.0.0.1", port: 0, identity, clientAuthentication };
listen(options, { backend: "openssl" }).close();
for (const believing of [trust, undefined]) {
  TlsContext.client({ trust: believing })[Symbol.dispose]();
}
