import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { idle } from "../../ffi/epoll.ts";
import { TlsError } from "../../lib/errors.ts";
import { type Backend, dial } from "../../lib/tls/backend.ts";
import { writeCertificates } from "../../lib/tls/certificate_files.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import type { TlsConnection } from "../../lib/tls/connection.ts";
import type { DialOptions } from "../../lib/tls/options.ts";
import { backends, hostname, MeetingPlace } from "./meeting.ts";
import { withFolder } from "./openssl.ts";
import { nodeClient, PeerServer, sClient } from "./peers.ts";
import "./loaded_libssl.ts";

const certificates = await createCertificates({ hosts: [hostname], days: 1 });
const { ca, server: identity, client: clientIdentity } = certificates;
const trust = { authorities: [ca.certificate] };
const clientAuthentication = { trust, required: true };
const versions = ["1.2", "1.3"] as const;

// Deno's check for leaks wants libraries loaded before the first test.
for (const backend of backends) {
  await using _place = new MeetingPlace({ identity }, backend);
}

/** A test with the certificates in files of a folder. */
function interopTest(name: string, test: (files: string) => Promise<void>): void {
  Deno.test(name, async () => {
    await withFolder(async (folder) => {
      await writeCertificates(folder, certificates, { overwrite: true });
      await test(folder);
    });
    await idle();
  });
}

async function readUntil(connection: TlsConnection, end: string): Promise<string> {
  const buffer = new Uint8Array(4096);
  let text = "";
  while (!text.endsWith(end)) {
    const count = await connection.read(buffer);
    assert(count !== null, `the connection ended after ${text}`);
    text += new TextDecoder().decode(buffer.subarray(0, count));
  }
  return text;
}

function say(connection: TlsConnection, text: string): Promise<void> {
  return connection.write(new TextEncoder().encode(text));
}

/** Serves the next client: it asks, and is answered. */
async function serve(place: MeetingPlace): Promise<TlsConnection> {
  const connection = await (await place.accept()).handshake();
  assertEquals(await readUntil(connection, "\n"), "ping\n");
  await say(connection, "pong\n");
  await connection.close();
  return connection;
}

/** Asks a server, and gives its answer. */
async function ask(
  port: number,
  backend: Backend,
  options: Partial<DialOptions> = {},
): Promise<[answer: string, connection: TlsConnection]> {
  const connection = await dial(
    { hostname, port, trust, handshakeSeconds: 5, ...options },
    { backend },
  );
  try {
    await say(connection, "ping\n");
    return [await readUntil(connection, "\n"), connection];
  } finally {
    await connection.close();
  }
}

for (const backend of backends) {
  for (const version of versions) {
    interopTest(`${backend}: openssl s_client is served (TLS ${version})`, async (files) => {
      await using place = new MeetingPlace({ identity }, backend);
      const serving = serve(place);
      const args = [`-tls${version.replace(".", "_")}`, "-CAfile", `${files}/ca.pem`];
      const said = await sClient(place.port, args, "ping\n");
      await serving;
      assertStringIncludes(said, `New, TLSv${version}`);
      assertStringIncludes(said, "Verify return code: 0 (ok)");
      assertStringIncludes(said, "ALPN protocol: verbseal/1");
      assertStringIncludes(said, "pong");
    });

    interopTest(`${backend}: openssl s_server is understood (TLS ${version})`, async (files) => {
      const pair = ["-cert", `${files}/server.pem`, "-key", `${files}/server.key`];
      const only = `-tls${version.replace(".", "_")}`;
      await using server = await PeerServer.openssl(only, ...pair);
      const [answer, { alpn, handshake }] = await ask(server.port, backend);
      assertEquals([answer, alpn], ["gnip\n", "verbseal/1"]);
      if (backend === "openssl") assertEquals(handshake?.version, `TLSv${version}`);
    });
  }

  interopTest(`${backend}: curl is served`, async (files) => {
    await using place = new MeetingPlace({ identity, protocols: [] }, backend);
    const curl = new Deno.Command("curl", {
      args: ["-sS", "--cacert", `${files}/ca.pem`, `https://${hostname}:${place.port}/`],
    }).output();
    const connection = await (await place.accept()).handshake();
    assertStringIncludes(await readUntil(connection, "\r\n\r\n"), "GET / HTTP/1.1\r\n");
    await say(
      connection,
      "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\npong\n",
    );
    await connection.close();
    const { stdout, stderr } = await curl;
    assertEquals(new TextDecoder().decode(stderr), "");
    assertEquals(new TextDecoder().decode(stdout), "pong\n");
  });

  interopTest(`${backend}: Node's client is served`, async () => {
    await using place = new MeetingPlace({ identity }, backend);
    const serving = serve(place);
    const facts = await nodeClient(place.port, { ca: ca.certificate });
    await serving;
    assertEquals(facts, {
      text: "pong\n",
      alpn: "verbseal/1",
      protocol: "TLSv1.3",
      authorized: true,
      subject: "Verbseal server",
    });
  });

  interopTest(`${backend}: Node's server is understood`, async () => {
    const { certificate: cert, key } = identity;
    await using server = await PeerServer.node({ cert, key });
    const [answer, { alpn }] = await ask(server.port, backend);
    assertEquals([answer, alpn], ["pong\n", "verbseal/1"]);
  });
}

for (const version of versions) {
  const only = `-tls${version.replace(".", "_")}`;

  interopTest(`openssl s_client shows its certificate (TLS ${version})`, async (files) => {
    await using place = new MeetingPlace({ identity, clientAuthentication }, "openssl");
    const serving = serve(place);
    const pair = ["-cert", `${files}/client.pem`, "-key", `${files}/client.key`];
    assertStringIncludes(await sClient(place.port, [only, ...pair], "ping\n"), "pong");
    assertEquals((await serving).peerCertificates.length, 2);
  });

  interopTest(`openssl s_server is shown a certificate (TLS ${version})`, async (files) => {
    const pair = ["-cert", `${files}/server.pem`, "-key", `${files}/server.key`];
    const asking = ["-Verify", "1", "-verify_return_error", "-CAfile", `${files}/ca.pem`];
    await using server = await PeerServer.openssl(only, ...pair, ...asking);
    const [answer] = await ask(server.port, "openssl", { identity: clientIdentity });
    assertEquals(answer, "gnip\n");
    await using other = await PeerServer.openssl(only, ...pair, ...asking);
    const refused = await assertRejects(() => ask(other.port, "openssl"), TlsError);
    assertEquals(refused.code, "certificate_required");
  });

  interopTest(
    `openssl s_client resumes its session, and is known again (TLS ${version})`,
    async (files) => {
      await using place = new MeetingPlace({ identity, clientAuthentication }, "openssl");
      const pair = ["-cert", `${files}/client.pem`, "-key", `${files}/client.key`];
      const connect = async (...args: string[]) => {
        const serving = serve(place);
        const said = await sClient(place.port, [only, ...pair, ...args], "ping\n");
        return [await serving, said] as const;
      };
      const [first] = await connect("-sess_out", `${files}/session.pem`);
      const [second, said] = await connect("-sess_in", `${files}/session.pem`);
      assertStringIncludes(said, `Reused, TLSv${version}`);
      assertEquals([first.handshake?.resumed, second.handshake?.resumed], [false, true]);
      assertEquals(second.peerCertificates[0], first.peerCertificates[0]);
    },
  );
}

interopTest("Node's client shows its certificate, and is refused without one", async () => {
  await using place = new MeetingPlace({ identity, clientAuthentication }, "openssl");
  const serving = serve(place);
  const { certificate: cert, key } = clientIdentity;
  assertEquals((await nodeClient(place.port, { ca: ca.certificate, cert, key })).text, "pong\n");
  assertEquals((await serving).peerCertificates.length, 2);
  const refusing = place.accept().then((incoming) => incoming.handshake())
    .then(() => "served", ({ code }) => code);
  assertEquals(await nodeClient(place.port, { ca: ca.certificate }), {
    error: "ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED",
  });
  assertEquals(await refusing, "certificate_missing");
});

interopTest("Node's server is shown a certificate", async () => {
  const { certificate: cert, key } = identity;
  const asking = { requestCert: true, rejectUnauthorized: true, ca: ca.certificate };
  await using server = await PeerServer.node({ cert, key, ...asking });
  const [answer] = await ask(server.port, "openssl", { identity: clientIdentity });
  assertEquals(answer, "pong\n");
  const { authorized, subject } = JSON.parse(await server.said());
  assertEquals([authorized, subject], [true, "Verbseal client"]);
});
