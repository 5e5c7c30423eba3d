import { assertEquals, assertRejects } from "@std/assert";
import { idle } from "../../ffi/epoll.ts";
import { TlsError } from "../../lib/errors.ts";
import { dial, listen } from "../../lib/tls/backend.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import { TlsContext } from "../../lib/tls/openssl_context.ts";
import { UnknownKeyError } from "../../lib/tls/openssl_verification.ts";
import { TestAuthority } from "./bad_certificates.ts";
import { daysFromNow } from "./odd_certificates.ts";

const hostname = "127.0.0.1";
const { ca, server, client } = await createCertificates({ hosts: [hostname], days: 1 });
const authorities = [ca.certificate];
const serving = {
  hostname,
  port: 0,
  identity: server,
  clientAuthentication: { trust: { authorities }, required: false },
};
const pins = [`sha256:${"A".repeat(43)}=`];

// Deno's check for leaks wants libraries loaded before the first test.
listen(serving).close();
TlsContext.client({ trust: { authorities } })[Symbol.dispose]();
TlsContext.client({ trust: { authorities: [], pins } })[Symbol.dispose]();

Deno.test("another key is what is wrong, also where the certificate has expired", async () => {
  const authority = await TestAuthority.root();
  const notAfter = daysFromNow(-1);
  const identity = await authority.issue({ use: "server", notBefore: daysFromNow(-2), notAfter });
  const listener = listen({ ...serving, identity });
  const accepting = listener[Symbol.asyncIterator]();
  const trust = { authorities: [], pins };
  const dialled = assertRejects(
    () => dial({ ...listener.address, trust, handshakeSeconds: 5 }),
    UnknownKeyError,
  );
  const { value: incoming } = await accepting.next();
  await assertRejects(() => incoming.handshake(), TlsError);
  await dialled;
  const ended = accepting.next();
  listener.close();
  await ended;
  await idle();
});

for (const [what, trust] of [["alone", []], ["beside authorities", authorities]] as const) {
  Deno.test(`a server without the pinned key never sees who the client is, with pins ${what}`, async () => {
    const listener = listen(serving);
    const accepting = listener[Symbol.asyncIterator]();
    const dialled = assertRejects(() =>
      dial({
        ...listener.address,
        trust: { authorities: trust, pins },
        identity: client,
        handshakeSeconds: 5,
      }), UnknownKeyError);
    const { value: incoming } = await accepting.next();
    const refused = await assertRejects(() => incoming.handshake(), TlsError);
    assertEquals(refused.code, "certificate_rejected");
    await dialled;
    const ended = accepting.next();
    listener.close();
    await ended;
    await idle();
  });
}
