/** Clients that resume TLS sessions, and when they must not. */
import { assertEquals, assertRejects } from "@std/assert";
import { delay } from "@std/async/delay";
import { idle } from "../../ffi/epoll.ts";
import { TlsError } from "../../lib/errors.ts";
import { dial } from "../../lib/tls/backend.ts";
import type { TlsConnection } from "../../lib/tls/connection.ts";
import { TlsSessionCache } from "../../lib/tls/openssl_session_cache.ts";
import { certificatePin } from "../../lib/tls/openssl_verification.ts";
import type { DialOptions, ListenOptions, TlsSettings } from "../../lib/tls/options.ts";
import { decodePem } from "../../lib/tls/x509.ts";
import { TestAuthority } from "./bad_certificates.ts";
import { clockAhead } from "./clock.ts";
import { hostname, MeetingPlace } from "./meeting.ts";
import { withFolder } from "./openssl.ts";
import { serving } from "./s_server.ts";
import "./loaded_libssl.ts";

const root = await TestAuthority.root();
const department = await root.below();
const [identity, client, otherClient] = await Promise.all([
  department.issue({ use: "server" }),
  department.issue({ use: "client" }),
  department.issue({ use: "client" }),
]);
const trust = { authorities: [root.certificate] };
const pin = pinOf(identity.certificate);

/** What makes both sides agree on a version. */
const versions: Record<string, TlsSettings> = {
  "TLSv1.2": { ciphers: ["ECDHE-ECDSA-AES256-GCM-SHA384"] },
  "TLSv1.3": { minVersion: "1.3" },
};

/** A server, and a client that remembers what it has agreed on. */
class Meetings implements AsyncDisposable {
  readonly #sessions = new TlsSessionCache();
  readonly #place: MeetingPlace;

  constructor(options: Partial<ListenOptions> = {}) {
    this.#place = new MeetingPlace({ identity, ...options }, "openssl");
  }

  /**
   * Connects, and has the client read something: with TLS 1.3 the ticket comes before it.
   *
   * @param end what the client does with the connection then
   */
  async meet(
    options: Partial<DialOptions> = {},
    end: (connection: TlsConnection) => unknown = (connection) => connection.close(),
  ): Promise<{ near: TlsConnection; far: TlsConnection }> {
    const { port } = this.#place;
    const dialling = dial(
      { hostname, port, trust, sessions: this.#sessions, handshakeSeconds: 5, ...options },
      { backend: "openssl" },
    );
    const serving = this.#place.accept().then((incoming) => incoming.handshake());
    const [near, far] = await bothOrNone(dialling, serving);
    await far.write(Uint8Array.of(1));
    assertEquals(await near.read(new Uint8Array(1)), 1);
    await Promise.all([end(near), far.close()]);
    return { near, far };
  }

  /** Whether the session of before is resumed, as both sides have it. */
  async resumes(...args: Parameters<Meetings["meet"]>): Promise<boolean | undefined> {
    const { near, far } = await this.meet(...args);
    assertEquals(near.handshake?.resumed, far.handshake?.resumed);
    return near.handshake?.resumed;
  }

  /** @returns the code of the error that the client ends with */
  async refuses(options: Partial<DialOptions>): Promise<string> {
    return (await assertRejects(() => this.meet(options), TlsError)).code;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#sessions[Symbol.dispose]();
    await this.#place[Symbol.asyncDispose]();
    await idle();
  }
}

/** @throws the first one's failure, or else the second's */
async function bothOrNone<T extends TlsConnection>(
  first: Promise<T>,
  second: Promise<T>,
): Promise<[T, T]> {
  const ends = await Promise.allSettled([first, second]);
  const failed = ends.find((end) => end.status === "rejected");
  if (!failed) return [await first, await second];
  for (const end of ends) if (end.status === "fulfilled") end.value.abort();
  throw failed.reason;
}

function pinOf(certificate: string): string {
  return certificatePin(decodePem(certificate, "CERTIFICATE")[0]!);
}

// What is loaded when it is used first is there before the first test.
{
  await using meetings = new Meetings();
  await meetings.meet();
  await meetings.meet({ ocsp: "prefer" });
}

for (const [version, settings] of Object.entries(versions)) {
  Deno.test(`${version}: a client resumes its session, time and again`, async () => {
    await using meetings = new Meetings();
    const first = await meetings.meet({ settings });
    assertEquals(first.near.handshake?.resumed, false);
    for (let count = 0; count < 3; count++) {
      const { near } = await meetings.meet({ settings });
      assertEquals([near.handshake?.version, near.handshake?.resumed], [version, true]);
      assertEquals(near.peerCertificates[0], first.near.peerCertificates[0]);
    }
  });

  Deno.test(`${version}: a client resumes the sessions of connections that were lost`, async () => {
    await using meetings = new Meetings();
    const lose = (connection: TlsConnection) => connection.abort();
    const resumed = [];
    for (let count = 0; count < 4; count++) {
      resumed.push(await meetings.resumes({ settings }, lose));
    }
    assertEquals(resumed, [false, true, true, true]);
  });

  Deno.test(`${version}: of a client that resumes it is known who it is`, async () => {
    const clientAuthentication = { trust, required: true };
    await using meetings = new Meetings({ clientAuthentication });
    const first = await meetings.meet({ settings, identity: client });
    const second = await meetings.meet({ settings, identity: client });
    assertEquals(second.far.handshake?.resumed, true);
    assertEquals(second.far.peerCertificates[0], first.far.peerCertificates[0]);
  });

  Deno.test(`${version}: a client that has another certificate now is not taken for the former`, async () => {
    const clientAuthentication = { trust, required: true };
    await using meetings = new Meetings({ clientAuthentication });
    const first = await meetings.meet({ settings, identity: client });
    const second = await meetings.meet({ settings, identity: otherClient });
    assertEquals(second.far.handshake?.resumed, false);
    assertEquals(first.far.peerCertificates[0] === second.far.peerCertificates[0], false);
  });

  Deno.test(`${version}: openssl s_server resumes a client's session`, async () => {
    await withFolder(async (folder) => {
      await Deno.writeTextFile(`${folder}/server.pem`, identity.certificate);
      await Deno.writeTextFile(`${folder}/server.key`, identity.key);
      const options = ["-alpn", "verbseal/1", "-rev", "-cert_chain", `${folder}/server.pem`];
      await serving(folder, options, async (port) => {
        using sessions = new TlsSessionCache();
        using clock = clockAhead(0);
        for (const expected of [false, true, true, false]) {
          const options = { hostname, port, trust, sessions, settings, handshakeSeconds: 5 };
          const connection = await dial(options, { backend: "openssl" });
          assertEquals(connection.handshake?.resumed, expected);
          await connection.write(new TextEncoder().encode("ping\n"));
          assertEquals(await connection.read(new Uint8Array(5)), 5);
          await connection.close();
          // Long after the only full handshake.
          if (expected) clock.milliseconds += 43_201_000;
        }
      });
    });
  });
}

Deno.test("a ticket of TLS 1.3 is used once", async () => {
  await using meetings = new Meetings();
  await meetings.meet();
  const both = await Promise.all([meetings.meet(), meetings.meet()]);
  assertEquals(both.map(({ near }) => near.handshake?.resumed).sort(), [false, true]);
});

Deno.test("a session of other cipher suites is not resumed", async () => {
  await using meetings = new Meetings();
  for (const cipher of ["ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256"]) {
    assertEquals(await meetings.resumes({ settings: { ciphers: [cipher] } }), false);
  }
});

Deno.test("a server is asked for a ticket only where it will be used", async () => {
  for (const sessions of [undefined, new TlsSessionCache()]) {
    using listener = Deno.listen({ hostname, port: 0 });
    const target = { hostname, port: listener.addr.port, trust, handshakeSeconds: 5 };
    const dialling = dial({ ...target, ...(sessions ? { sessions } : {}) }, { backend: "openssl" });
    using connection = await listener.accept();
    const hello = new Uint8Array(4096);
    const count = await connection.read(hello);
    // The empty extension session_ticket (RFC 5077, section 3.2).
    const asks = hello.subarray(0, count!).toHex().includes("00230000");
    assertEquals(asks, sessions !== undefined);
    connection.close();
    await assertRejects(() => dialling, TlsError);
    sessions?.[Symbol.dispose]();
  }
  await idle();
});

Deno.test("a server whose certificate was revoked meanwhile is refused, and so is its authority's", async () => {
  const [rootList, departmentList] = [
    await root.revocationList(),
    await department.revocationList(),
  ];
  const lists = {
    none: [rootList, departmentList],
    server: [rootList, await department.revocationList([identity])],
    authority: [
      await root.revocationList([{ ...identity, certificate: department.certificate }]),
      departmentList,
    ],
  };
  for (const revocationLists of [lists.server, lists.authority]) {
    await using meetings = new Meetings();
    assertEquals(
      await meetings.resumes({ trust: { ...trust, revocationLists: lists.none } }),
      false,
    );
    assertEquals(
      await meetings.resumes({ trust: { ...trust, revocationLists: lists.none } }),
      true,
    );
    const refused = await meetings.refuses({ trust: { ...trust, revocationLists } });
    assertEquals(refused, "certificate_revoked");
  }
});

Deno.test("a server whose authority or key is believed no longer is refused", async () => {
  const other = (await TestAuthority.root()).certificate;
  const otherPin = pinOf(client.certificate);
  for (
    const [before, after, code] of [
      [trust, { authorities: [other] }, "unknown_issuer"],
      [trust, { ...trust, pins: [otherPin] }, "unknown_key"],
      [{ authorities: [], pins: [pin] }, { authorities: [], pins: [otherPin] }, "unknown_key"],
    ] as const
  ) {
    await using meetings = new Meetings();
    assertEquals(await meetings.resumes({ trust: before }), false);
    assertEquals(await meetings.resumes({ trust: before }), true);
    assertEquals(await meetings.refuses({ trust: after }), code);
  }
});

Deno.test("a server that is asked for by another name has to show that it has it", async () => {
  await using meetings = new Meetings();
  assertEquals(await meetings.resumes(), false);
  assertEquals(await meetings.resumes({ serverName: "localhost" }), false);
  assertEquals(await meetings.refuses({ serverName: "other.example" }), "wrong_name");
});

Deno.test("a server whose certificate has expired meanwhile is refused", async () => {
  const notAfter = new Date(Math.ceil(Date.now() / 1000 + 4) * 1000);
  const identity = await department.issue({ use: "server", notAfter });
  await using meetings = new Meetings({ identity });
  assertEquals(await meetings.resumes(), false);
  // libcrypto has the second itself for valid.
  await delay(notAfter.getTime() + 1001 - Date.now());
  assertEquals(await meetings.refuses({}), "certificate_expired");
});

Deno.test("a client that wants its server's OCSP response resumes nothing", async () => {
  await using meetings = new Meetings();
  assertEquals(await meetings.resumes(), false);
  assertEquals(await meetings.resumes({ ocsp: "prefer" }), false);
  assertEquals(await meetings.resumes({ ocsp: "prefer" }), false);
});
