/** Sessions of TLS that `openssl s_client` resumes: no certificate is shown again. */
import { assertEquals, assertRejects } from "@std/assert";
import { delay } from "@std/async/delay";
import { idle } from "../../ffi/epoll.ts";
import { TlsError } from "../../lib/errors.ts";
import { SessionClient } from "../../lib/session/session_client.ts";
import { protocol, type TlsConnection } from "../../lib/tls/connection.ts";
import { TestAuthority } from "../tls/bad_certificates.ts";
import { clockAhead } from "../tls/clock.ts";
import "../tls/loaded_libssl.ts";
import { hostname, MeetingPlace } from "../tls/meeting.ts";
import { withFolder } from "../tls/openssl.ts";

const root = await TestAuthority.root();
const server = await root.issue({ use: "server" });
const trust = { authorities: [root.certificate] };

/** Seconds that a certificate is valid: enough for two handshakes on a busy machine. */
const SECONDS = 5;

/** A client that s_client is, with what the server is told of it. */
class Returning implements AsyncDisposable {
  readonly #place = new MeetingPlace(
    { identity: server, clientAuthentication: { trust, required: true } },
    "openssl",
  );

  constructor(private readonly folder: string, private readonly version: string) {}

  /** Connects, and resumes what a `ticket` of before is for; without one it has one afterwards. */
  async meet(ticket: "new" | "kept"): Promise<TlsConnection> {
    const { folder, version } = this;
    const child = new Deno.Command("openssl", {
      args: [
        ...["s_client", "-connect", `${hostname}:${this.#place.port}`, `-${version}`],
        ...["-alpn", protocol, "-ign_eof", ticket === "new" ? "-sess_out" : "-sess_in"],
        ...[`${folder}/ticket`, "-cert", `${folder}/client.pem`],
        ...["-cert_chain", `${folder}/client.pem`],
      ],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    try {
      const tls = await (await this.#place.accept()).handshake();
      // What is read after the handshake brings the ticket in TLS 1.3.
      await tls.write(new Uint8Array(1));
      await tls.close();
      return tls;
    } finally {
      await child.status;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#place[Symbol.asyncDispose]();
    await idle();
  }
}

/** Some seconds from now, until which something is valid: certificates know whole ones. */
function soon(): Date {
  return new Date(Math.ceil(Date.now() / 1000 + SECONDS - 1) * 1000);
}

/** Whose time is over. */
const expiring = {
  "its certificate": async (notAfter: Date) => await root.issue({ use: "client", notAfter }),
  "that of the authority that has signed it": async (notAfter: Date) =>
    await (await root.below(undefined, { notAfter })).issue({ use: "client" }),
};

for (const version of ["tls1_2", "tls1_3"]) {
  for (const [what, issue] of Object.entries(expiring)) {
    Deno.test(`${version}: a resumed session has its client's identity, until ${what} expires`, async () => {
      await withFolder(async (folder) => {
        const end = soon();
        const { certificate, key } = await issue(end);
        await Deno.writeTextFile(`${folder}/client.pem`, certificate + key);
        await using client = new Returning(folder, version);
        const first = await client.meet("new");
        const again = await client.meet("kept");
        assertEquals([first, again].map(({ handshake }) => handshake?.resumed), [false, true]);
        assertEquals(again.peerCertificates[0], first.peerCertificates[0]);
        const known = new SessionClient();
        await known.identify(again.peerCertificates);
        assertEquals(String(known.fields.subject).startsWith("CN=client"), true);
        await delay(end.getTime() + 1001 - Date.now());
        const late = await assertRejects(() => client.meet("kept"), TlsError);
        assertEquals(late.code, "certificate_expired");
      });
    });
  }

  Deno.test(`${version}: nothing is resumed by a key of tickets that is older than a day`, async () => {
    await withFolder(async (folder) => {
      const { certificate, key } = await root.issue({ use: "client" });
      await Deno.writeTextFile(`${folder}/client.pem`, certificate + key);
      await using client = new Returning(folder, version);
      using clock = clockAhead(0);
      await client.meet("new");
      clock.milliseconds = 86_340_000;
      assertEquals((await client.meet("kept")).handshake?.resumed, true);
      clock.milliseconds = 86_401_000;
      assertEquals((await client.meet("kept")).handshake?.resumed, false);
    });
  });
}
