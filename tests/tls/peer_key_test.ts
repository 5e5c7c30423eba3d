import { assertEquals, assertRejects } from "@std/assert";
import { X509Certificate } from "node:crypto";
import { libc } from "../../ffi/libc.ts";
import { TlsError } from "../../lib/errors.ts";
import { dial, peerKey } from "../../lib/tls/backend.ts";
import { protocol } from "../../lib/tls/connection.ts";
import { UnknownKeyError } from "../../lib/tls/openssl_verification.ts";
import { TlsContext } from "../../lib/tls/openssl_context.ts";
import { pinOf } from "../../lib/tls/pin.ts";
import { daysFromNow, oddCertificate } from "./odd_certificates.ts";
import { openssl, withFolder } from "./openssl.ts";
import { hostname, serving } from "./s_server.ts";

// Deno's check for leaks wants libraries loaded before the first test.
libc();
TlsContext.client({ trust: undefined })[Symbol.dispose]();

const speaking = ["-alpn", protocol];

for (const type of ["ec", "rsa", "ed25519"]) {
  Deno.test(`the ${type} key of openssl's self-signed server is learnt, and believed as a pin`, async () => {
    await withFolder(async (folder) => {
      const kinds: Record<string, string[]> = {
        ec: ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
        rsa: ["-newkey", "rsa:2048"],
        ed25519: ["-newkey", "ed25519"],
      };
      const files = ["-out", `${folder}/server.pem`, "-keyout", `${folder}/server.key`];
      const made = await openssl(
        ...["req", "-x509", "-noenc", "-subj", "/CN=storage1", "-days", "2"],
        ...kinds[type]!,
        ...files,
      );
      assertEquals(made.success, true, made.text);
      await serving(folder, speaking, async (port) => {
        const options = { hostname, port, handshakeSeconds: 5 };
        const { pin, certificate } = await peerKey(options);
        const shown = new X509Certificate(await Deno.readTextFile(`${folder}/server.pem`));
        assertEquals(pin, pinOf(shown.publicKey.export({ type: "spki", format: "der" })));
        assertEquals(new X509Certificate(certificate).fingerprint256, shown.fingerprint256);
        const trust = { authorities: [], pins: [`sha256:${"A".repeat(43)}=`, pin] };
        await (await dial({ ...options, trust })).close();
        const others = { authorities: [], pins: trust.pins.slice(0, 1) };
        const refused = await assertRejects(
          () => dial({ ...options, trust: others }),
          UnknownKeyError,
        );
        assertEquals(refused.pin, pin);
      });
    });
  });
}

Deno.test("the key of a server whose certificate has expired is not learnt", async () => {
  await withFolder(async (folder) => {
    const old = await oddCertificate({ notBefore: daysFromNow(-2), notAfter: daysFromNow(-1) });
    await Deno.writeTextFile(`${folder}/server.pem`, old.certificate);
    await Deno.writeTextFile(`${folder}/server.key`, old.key);
    await serving(folder, speaking, async (port) => {
      const dialling = { hostname, port, handshakeSeconds: 5 };
      const error = await assertRejects(() => peerKey(dialling), TlsError);
      assertEquals(error.code, "certificate_expired");
    });
  });
});

Deno.test("the key of a server that does not speak the protocol is not learnt", async () => {
  await withFolder(async (folder) => {
    const { certificate, key } = await oddCertificate({});
    await Deno.writeTextFile(`${folder}/server.pem`, certificate);
    await Deno.writeTextFile(`${folder}/server.key`, key);
    await serving(folder, [], async (port) => {
      const dialling = { hostname, port, handshakeSeconds: 5 };
      const error = await assertRejects(() => peerKey(dialling), TlsError);
      assertEquals(error.code, "other_protocol");
    });
  });
});
