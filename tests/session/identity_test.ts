import { assertEquals, assertRejects } from "@std/assert";
import { X509Certificate } from "node:crypto";
import { VerbsealError } from "../../lib/errors.ts";
import { OcspClient } from "../../lib/tls/ocsp_client.ts";
import { checkRevocation } from "../../lib/tls/revocation.ts";
import { verbsTest } from "../rdma/resources.ts";
import { OcspAuthority, serials } from "../tls/ocsp_authority.ts";
import { IdentityScene } from "./identity_scene.ts";

verbsTest("a session's log lines tell the identity that its client has shown", async () => {
  await using scene = await IdentityScene.create();
  const identity = await scene.certificate({
    subject: [["O", "Example"], ["CN", "node-1"]],
    names: [{ type: "url", value: "spiffe://example.org/backup/1" }],
  });
  const certificate = new X509Certificate(identity.certificate);
  const client = await scene.client(identity);
  await client[Symbol.asyncDispose]();
  for (const message of ["session established", "session ended"]) {
    const { subject, issuer, serial, sans, fingerprint } = await scene.logged(message);
    assertEquals({ subject, issuer, serial, sans, fingerprint }, {
      subject: "CN=node-1,O=Example",
      issuer: certificate.issuer,
      serial: certificate.serialNumber.toLowerCase(),
      sans: ["uri:spiffe://example.org/backup/1"],
      fingerprint: certificate.fingerprint256.replaceAll(":", "").toLowerCase(),
    });
  }
});

verbsTest("a client without certificate leaves no fields of one", async () => {
  await using scene = await IdentityScene.create();
  await scene.client();
  const fields = Object.keys(await scene.logged("session established"));
  const ofIdentity = ["subject", "serial", "issuer", "sans", "fingerprint", "rule"];
  assertEquals(ofIdentity.filter((name) => fields.includes(name)), []);
});

verbsTest("a client with a revoked certificate is told so, and so is the log", async () => {
  await using authority = await OcspAuthority.create();
  await using responder = await authority.serve();
  const authorities = [authority.identity.certificate];
  await using scene = await IdentityScene.create({ authorities });
  using client = new OcspClient();
  scene.checkRevocation = ({ peerCertificates, peerAddress: peer }) =>
    checkRevocation(peerCertificates, {
      mode: "require",
      client,
      peer,
      authorities: [authority.der],
    });
  const issue = (serial: string) =>
    authority.issue(serial, { url: responder.url, use: "clientAuth" });
  await scene.client(await issue(serials.good));
  const revoked = await issue(serials.revoked);
  const error = await assertRejects(() => scene.client(revoked), VerbsealError, "keyCompromise");
  assertEquals(error.code, "certificate_revoked");
  const { reason, serial } = await scene.logged("session ended");
  assertEquals([reason, serial], ["certificate_revoked", serials.revoked]);
});

verbsTest(
  "a responder that keeps silent holds a session up for the time of the exchange only",
  async () => {
    await using authority = await OcspAuthority.create();
    using responder = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const authorities = [authority.identity.certificate];
    await using scene = await IdentityScene.create({
      authorities,
      limits: { handshakeSeconds: 1 },
    });
    using client = new OcspClient({ answerSeconds: 3600 });
    scene.checkRevocation = ({ peerCertificates, peerAddress: peer }, signal) =>
      checkRevocation(peerCertificates, {
        ...{ mode: "require", client, peer, signal },
        authorities: [authority.der],
      });
    const url = `http://127.0.0.1:${responder.addr.port}/`;
    const identity = await authority.issue(serials.good, { url, use: "clientAuth" });
    await assertRejects(() => scene.client(identity), VerbsealError);
    assertEquals((await scene.logged("session ended")).reason, "exchange_timeout");
  },
);
