/** Certificates that an authority has spoken against already, within the handshake. */
import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { idle } from "../../ffi/epoll.ts";
import { libcryptoOcsp } from "../../ffi/libcrypto_ocsp.ts";
import { TlsError } from "../../lib/errors.ts";
import { dial, listen } from "../../lib/tls/backend.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import { OcspClient } from "../../lib/tls/ocsp_client.ts";
import { OcspAuthority, serials } from "./ocsp_authority.ts";
import "./loaded_libssl.ts";

const hostname = "127.0.0.1";
const { ca, server } = await createCertificates({ hosts: [hostname], days: 1 });
const trust = { authorities: [ca.certificate] };

// Deno's check for leaks wants libraries loaded before the first test.
libcryptoOcsp();

Deno.test("what a responder has said before ends the handshake, with the alert for it", async () => {
  await using authority = await OcspAuthority.create();
  await using responder = await authority.serve();
  const { url } = responder;
  using ocsp = new OcspClient();
  const listener = listen({
    hostname,
    port: 0,
    identity: server,
    clientAuthentication: {
      trust: { authorities: [authority.identity.certificate] },
      required: true,
    },
    knownRefusal: ocsp.knownRefusal,
  });
  const accepting = listener[Symbol.asyncIterator]();
  for (
    const [serial, code, heard] of [
      [serials.good, undefined, undefined],
      [serials.revoked, "certificate_revoked", "it has been revoked"],
      [serials.unknown, "certificate_unknown", "its authority does not know it"],
    ] as const
  ) {
    const identity = await authority.issue(serial, { url, use: "clientAuth" });
    for (const known of [false, true]) {
      if (known) await ocsp.status(identity.der, authority.der);
      const dialling = dial({ ...listener.address, trust, identity, handshakeSeconds: 5 });
      const { value: incoming } = await accepting.next();
      const handshake = incoming.handshake();
      if (!known || code === undefined) {
        for (const connection of await Promise.all([handshake, dialling])) connection.abort();
        continue;
      }
      assertEquals((await assertRejects(() => handshake, TlsError)).code, code);
      // With TLS 1.3 a client hears of it when it reads.
      const connection = await dialling;
      const hearing = connection.read(new Uint8Array(1));
      assertStringIncludes((await assertRejects(() => hearing, TlsError)).message, heard!);
      connection.abort();
    }
  }
  const ended = accepting.next();
  listener.close();
  await ended;
  await idle();
});
