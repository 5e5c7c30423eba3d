import { assertEquals, assertRejects } from "@std/assert";
import { VerbsealError } from "../../lib/errors.ts";
import { OcspClient } from "../../lib/tls/ocsp_client.ts";
import { peerIdentity } from "../../lib/tls/peer_identity.ts";
import { checkRevocation } from "../../lib/tls/revocation.ts";
import { verbsTest } from "../rdma/resources.ts";
import { clientCertificate } from "../tls/client_certificate.ts";
import { OcspAuthority, serials } from "../tls/ocsp_authority.ts";
import { daysFromNow } from "../tls/odd_certificates.ts";
import { IdentityScene } from "./identity_scene.ts";

verbsTest("a session's log lines tell the identity that its client has shown", async () => {
  await using scene = await IdentityScene.create();
  const certificate = await clientCertificate({
    subject: [["O", "Example"], ["CN", "node-1"]],
    names: [{ type: "url", value: "spiffe://example.org/backup/1" }],
  });
  const { fingerprint } = await peerIdentity(certificate);
  const client = await scene.client(certificate);
  await client[Symbol.asyncDispose]();
  for (const message of ["session established", "session ended"]) {
    const line = await scene.logged(message);
    const { subject, issuer, serial, sans } = line;
    assertEquals({ subject, issuer, serial, sans, fingerprint: line.fingerprint }, {
      subject: "CN=node-1,O=Example",
      issuer: "CN=node-1,O=Example",
      serial: "01",
      sans: ["uri:spiffe://example.org/backup/1"],
      fingerprint,
    });
  }
});

verbsTest("a client without certificate leaves no fields of one", async () => {
  await using scene = await IdentityScene.create();
  await scene.client(undefined);
  const line = await scene.logged("session established");
  const fields = Object.keys(line);
  assertEquals(
    ["subject", "serial", "issuer", "sans", "fingerprint"].filter((name) => fields.includes(name)),
    [],
  );
});

verbsTest(
  "a certificate that has expired since its handshake is refused, with its name",
  async () => {
    await using scene = await IdentityScene.create();
    const expired = await clientCertificate({ notAfter: daysFromNow(-1) });
    const { code } = await assertRejects(() => scene.client(expired), VerbsealError);
    assertEquals(code, "certificate_expired");
    const line = await scene.logged("session ended");
    assertEquals([line.reason, line.subject], ["certificate_expired", "CN=client"]);
  },
);

verbsTest("a client with a revoked certificate is told so, and so is the log", async () => {
  await using authority = await OcspAuthority.create();
  await using responder = await authority.serve();
  await using scene = await IdentityScene.create();
  using client = new OcspClient();
  scene.checkRevocation = ({ peerCertificates, peerAddress: peer }) =>
    checkRevocation(peerCertificates, {
      mode: "require",
      client,
      peer,
      authorities: [authority.der],
    });
  const issue = async (serial: string) =>
    (await authority.issue(serial, { url: responder.url, use: "clientAuth" })).der;
  await scene.client(await issue(serials.good));
  const revoked = await issue(serials.revoked);
  const error = await assertRejects(() => scene.client(revoked), VerbsealError, "keyCompromise");
  assertEquals(error.code, "certificate_revoked");
  const { reason, serial } = await scene.logged("session ended");
  assertEquals([reason, serial], ["certificate_revoked", serials.revoked]);
});
