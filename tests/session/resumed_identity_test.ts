/** Sessions of TLS that `openssl s_client` resumes: no certificate is shown again. */
import { assertEquals, assertRejects } from "@std/assert";
import { delay } from "@std/async/delay";
import { idle } from "../../ffi/epoll.ts";
import { TlsError } from "../../lib/errors.ts";
import { SessionClient } from "../../lib/session/session_client.ts";
import { createAuthority } from "../../lib/tls/authority.ts";
import { listen } from "../../lib/tls/backend.ts";
import { protocol, type TlsConnection } from "../../lib/tls/connection.ts";
import { issueCertificate } from "../../lib/tls/issue.ts";
import { clientIdentity } from "../tls/client_certificate.ts";

const hostname = "127.0.0.1";
const { authority, identity: { certificate } } = await createAuthority("ecdsa-p256");
const server = await issueCertificate(authority, {
  commonName: "server",
  use: "server",
  hosts: [hostname],
  days: 1,
  keyType: "ecdsa-p256",
});
const clientAuthentication = { trust: { authorities: [certificate] }, required: true };
const listenForClients = () =>
  listen({ hostname, port: 0, identity: server, clientAuthentication });

// Deno's check for leaks wants libraries loaded before the first test.
listenForClients().close();

/** Seconds that a certificate is valid: enough for a handshake. */
const SECONDS = 2;

for (const version of ["tls1_2", "tls1_3"]) {
  Deno.test(`a resumed session has its client's identity, until that expires (${version})`, async () => {
    const folder = await Deno.makeTempDir({ prefix: "verbseal-" });
    const days = SECONDS / 86_400;
    const { certificate, key } = await clientIdentity(authority, { days });
    await Deno.writeTextFile(`${folder}/client.pem`, certificate + key);
    const listener = listenForClients();
    const accepting = listener[Symbol.asyncIterator]();
    /** Connects, and gives what the server is told. */
    const met = async (...args: string[]): Promise<TlsConnection> => {
      const child = new Deno.Command("openssl", {
        args: [
          ...["s_client", "-connect", `${hostname}:${listener.address.port}`, `-${version}`],
          ...["-alpn", protocol, "-cert", `${folder}/client.pem`, "-ign_eof", ...args],
        ],
        stdin: "null",
        stdout: "null",
        stderr: "null",
      }).spawn();
      const { value: incoming } = await accepting.next();
      const tls: TlsConnection = await incoming.handshake();
      // What is read after the handshake brings the ticket in TLS 1.3.
      await tls.write(new Uint8Array(1));
      await tls.close();
      await child.status;
      return tls;
    };
    const first = await met("-sess_out", `${folder}/session`);
    const again = await met("-sess_in", `${folder}/session`);
    assertEquals([first, again].map(({ handshake }) => handshake?.resumed), [false, true]);
    assertEquals(again.peerCertificates[0], first.peerCertificates[0]);
    const client = new SessionClient();
    await client.identify(again.peerCertificates);
    assertEquals(client.fields.subject, "CN=client");
    await delay(SECONDS * 1000 + 1000);
    const late = await met("-sess_in", `${folder}/session`);
    assertEquals(late.handshake?.resumed, true);
    const refused = () => new SessionClient().identify(late.peerCertificates);
    assertEquals((await assertRejects(refused, TlsError)).code, "certificate_expired");
    const ended = accepting.next();
    listener.close();
    await ended;
    await Deno.remove(folder, { recursive: true });
    await idle();
  });
}
