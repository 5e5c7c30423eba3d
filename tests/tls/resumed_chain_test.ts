import { assertEquals } from "@std/assert";
import * as x509 from "../../lib/tls/peculiar_x509.ts";
import { idle } from "../../ffi/epoll.ts";
import { generateKeys } from "../../lib/tls/key_types.ts";
import { clientIdentity } from "./client_certificate.ts";
import { MeetingPlace } from "./meeting.ts";
import { OcspAuthority, serials } from "./ocsp_authority.ts";
import { daysFromNow } from "./odd_certificates.ts";
import { sClient } from "./peers.ts";
import "./loaded_libssl.ts";

await using authority = await OcspAuthority.create();
const identity = await authority.issue(serials.good);
const trust = { authorities: [authority.identity.certificate] };
const options = { identity, clientAuthentication: { trust, required: true } };

for (const version of ["1.2", "1.3"]) {
  Deno.test(`TLS ${version}: of a resumed session it is known who has signed its client's certificate`, async () => {
    const folder = await Deno.makeTempDir();
    const between = await intermediate("CN=Department");
    const client = await clientIdentity(between);
    const chain = client.certificate + between.certificate.toString("pem");
    await Deno.writeTextFile(`${folder}/client.pem`, `${chain}\n${client.key}`);
    const place = new MeetingPlace(options, "openssl");
    const meet = async (...args: string[]) => {
      const only = `-tls${version.replace(".", "_")}`;
      const said = sClient(place.port, [only, "-cert", `${folder}/client.pem`, ...args]);
      const connection = await (await place.accept()).handshake();
      // What is read after the handshake brings the ticket in TLS 1.3.
      await connection.write(new Uint8Array(1));
      await connection.close();
      await said;
      return connection;
    };
    const ticket = `${folder}/session`;
    const chainArgs = ["-cert_chain", `${folder}/client.pem`];
    const first = await meet(...chainArgs, "-sess_out", ticket);
    const second = await meet(...chainArgs, "-sess_in", ticket, "-sess_out", ticket);
    const third = await meet(...chainArgs, "-sess_in", ticket);
    const resumed = [first, second, third].map(({ handshake }) => handshake?.resumed);
    assertEquals(resumed, [false, true, true]);
    assertEquals(first.peerCertificates.length, 3);
    assertEquals(second.peerCertificates, first.peerCertificates.slice(0, 2));
    assertEquals(third.peerCertificates, second.peerCertificates);
    await place[Symbol.asyncDispose]();
    await Deno.remove(folder, { recursive: true });
    await idle();
  });
}

/** An authority below the one that is believed. */
async function intermediate(subject: string) {
  const keys = await generateKeys("ecdsa-p256");
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: "21",
    subject,
    issuer: authority.certificate.subjectName,
    notBefore: daysFromNow(-1),
    notAfter: daysFromNow(1),
    publicKey: keys.publicKey,
    signingKey: authority.keys.privateKey,
    signingAlgorithm: { name: "ECDSA", hash: "SHA-256" },
    extensions: [new x509.BasicConstraintsExtension(true, 0, true)],
  });
  return { certificate, signingKey: keys.privateKey };
}
