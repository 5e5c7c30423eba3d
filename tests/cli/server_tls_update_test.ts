import { assertEquals, assertNotEquals } from "@std/assert";
import { idle } from "../../ffi/epoll.ts";
import { ServerTls } from "../../lib/cli/server_tls.ts";
import { TlsError } from "../../lib/errors.ts";
import { loadAuthority } from "../../lib/tls/authority.ts";
import { crlPem, signRevocationList } from "../../lib/tls/revocation_list.ts";
import { listen, peerKey } from "../../lib/tls/backend.ts";
import { writeCertificates } from "../../lib/tls/certificate_files.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import type { TlsListener } from "../../lib/tls/connection.ts";
import { verbsTest } from "../rdma/resources.ts";
import { CapturedLog } from "../telemetry/captured_log.ts";
import { openssl, withFolder } from "../tls/openssl.ts";

const hostname = "127.0.0.1";

/** Seconds that a revocation list is good for: enough for two handshakes. */
const SECONDS = 5;

/** Writes a new set of certificates, so that a server's files change. */
async function renew(folder: string): Promise<void> {
  const certificates = await createCertificates({ hosts: [hostname], days: 30 });
  await writeCertificates(folder, certificates, { overwrite: true });
}

verbsTest("where one listener does not take a new certificate, all keep the old one", async () => {
  await withFolder(async (folder) => {
    await renew(folder);
    const options = { cert: `${folder}/server.pem`, key: `${folder}/server.key` };
    using log = new CapturedLog();
    using tls = await ServerTls.load({ ...options, ocsp: "off" }, () => {});
    const listener = listen(
      { hostname, port: 0, ...tls.credentials.listener },
      { backend: "openssl" },
    );
    const accepting = (async () => {
      for await (const incoming of listener) incoming.handshake().then((each) => each.close());
    })();
    const shown = async () => {
      const { port } = listener.address;
      return (await peerKey({ hostname, port, handshakeSeconds: 5 })).pin;
    };
    let refuses = true;
    const other = {
      update: () =>
        refuses ? Promise.reject(new TlsError("refused", "it is of no use")) : Promise.resolve(),
    } as unknown as TlsListener;
    tls.keep([listener, other], undefined);
    const before = await shown();
    await renew(folder);
    const { properties } = await log.logged(({ level }) => level === "error");
    assertEquals(properties["reason"], "refused");
    assertEquals(await shown(), before);
    refuses = false;
    await renew(folder);
    await log.logged(({ properties }) => properties["changed"] === true);
    assertNotEquals(await shown(), before);
    listener.close();
    await accepting;
  });
  await idle();
});

verbsTest("a revocation list that expires ends the resumption of TLS sessions", async () => {
  await withFolder(async (folder) => {
    await renew(folder);
    const crl = `${folder}/short.crl`;
    const authority = await loadAuthority(folder);
    const short = { number: 2n, entries: [], days: SECONDS / 86_400 };
    await Deno.writeTextFile(crl, crlPem(await signRevocationList(authority, short)));
    const [cert, key] = [`${folder}/server.pem`, `${folder}/server.key`];
    using log = new CapturedLog();
    using tls = await ServerTls.load(
      { cert, key, ocsp: "off", clientCa: `${folder}/ca.pem`, crl: [crl] },
      () => {},
    );
    const listener = listen({ hostname, port: 0, ...tls.credentials.listener });
    const handshakes: Promise<unknown>[] = [];
    const accepting = (async () => {
      for await (const incoming of listener) {
        handshakes.push(incoming.handshake().then((each) => each.close(), () => {}));
      }
    })();
    tls.keep([listener], undefined);
    const meet = (...args: string[]) =>
      openssl(
        ...["s_client", "-connect", `${hostname}:${listener.address.port}`, "-tls1_2"],
        ...["-alpn", "verbseal/1", "-cert", `${folder}/client.pem`, "-key", `${folder}/client.key`],
        ...args,
      );
    const ticket = `${folder}/ticket`;
    await meet("-sess_out", ticket);
    await meet("-sess_in", ticket);
    assertEquals(listener.handshakes, { full: 1, resumed: 1, failed: 0 });
    const { properties } = await log.logged(({ level }) => level === "error");
    assertEquals(properties["reason"], "revocation_list_not_valid");
    await meet("-sess_in", ticket);
    assertEquals(listener.handshakes, { full: 1, resumed: 1, failed: 1 });
    listener.close();
    await accepting;
    await Promise.all(handshakes);
  });
  await idle();
});
