import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { idle } from "../../ffi/epoll.ts";
import { TlsError } from "../../lib/errors.ts";
import { type Backend, dialerBackend, listenerBackend } from "../../lib/tls/backend.ts";
import type { FailureCode } from "../../lib/tls/failure.ts";
import type { Identity } from "../../lib/tls/trust.ts";
import { selfSigned, TestAuthority, type Use } from "./bad_certificates.ts";
import { backends, hostname, leavingNothing, MeetingPlace, type Outcome } from "./meeting.ts";
import { daysFromNow } from "./odd_certificates.ts";
import "./loaded_libssl.ts";

const root = await TestAuthority.root();
const intermediate = await root.below();
const rootOfLeavesOnly = await TestAuthority.root(0);
const stranger = await TestAuthority.root();
/** Signs what is good. */
const other = await TestAuthority.root();
const goodServer = await other.issue({ use: "server" });
const goodClient = await other.issue({ use: "client" });
const authorities = [root, rootOfLeavesOnly, other].map(({ certificate }) => certificate);

/** A row of the matrix: what is wrong with a certificate, and what comes of it. */
interface BadCertificate {
  /** To go after "a certificate". */
  readonly what: string;
  /** What the side that refuses it says. */
  readonly code: FailureCode;
  /** What the side whose certificate is refused hears of the reason: an alert says no more. */
  readonly heard?: RegExp;
  /** Where it cannot be wrong for both. */
  readonly use?: Use;
  readonly issue: (use: Use) => Promise<Identity>;
  /** Revocation lists that the other side has; with any, libssl alone can be that side. */
  readonly lists?: (identity: Identity) => Promise<string[]>;
  /** rustls does not look at it: Deno's clients accept what libssl's refuse. */
  readonly acceptedByDeno?: true;
  /** rustls does not let a server show it. */
  readonly notShownByDeno?: true;
}

const matrix: readonly BadCertificate[] = [
  {
    what: "that has expired",
    code: "certificate_expired",
    heard: /has expired/,
    issue: (use) => root.issue({ use, notBefore: daysFromNow(-2), notAfter: daysFromNow(-1) }),
  },
  {
    what: "that is not valid yet",
    code: "certificate_not_valid",
    issue: (use) => root.issue({ use, notBefore: daysFromNow(1), notAfter: daysFromNow(2) }),
  },
  {
    what: "for another host",
    code: "wrong_name",
    use: "server",
    issue: (use) => root.issue({ use, hosts: ["storage.example", "10.0.0.5"] }),
  },
  {
    what: "of an unknown authority",
    code: "unknown_issuer",
    heard: /not trusted there/,
    issue: (use) => stranger.issue({ use }),
  },
  {
    what: "that its owner has signed",
    code: "unknown_issuer",
    heard: /not trusted there/,
    issue: (use) => selfSigned({ use }),
  },
  {
    what: "for the use of the other side (extended key usage)",
    code: "wrong_use",
    heard: /not issued for this use/,
    issue: (use) => root.issue({ use: use === "server" ? "client" : "server", hosts: [hostname] }),
  },
  {
    what: "whose key may not sign (key usage)",
    code: "wrong_use",
    heard: /not issued for this use/,
    acceptedByDeno: true,
    issue: (use) => root.issue({ use, enciphersOnly: true }),
  },
  {
    what: "with an unknown extension that must not be ignored",
    code: "unknown_extension",
    notShownByDeno: true,
    issue: (use) => root.issue({ use, unknownExtension: true }),
  },
  {
    what: "with seven authorities between it and the root",
    code: "chain_too_long",
    issue: async (use) => await (await root.farBelow(7)).issue({ use }),
  },
  {
    what: "with six authorities between it and the root",
    code: "chain_too_long",
    acceptedByDeno: true,
    issue: async (use) => await (await root.farBelow(6)).issue({ use }),
  },
  {
    what: "below an intermediate authority that may have none below it",
    code: "chain_too_long",
    issue: async (use) => await (await (await root.below(0)).below()).issue({ use }),
  },
  {
    what: "below an authority whose root may have none below it",
    code: "chain_too_long",
    acceptedByDeno: true,
    issue: async (use) => await (await rootOfLeavesOnly.below()).issue({ use }),
  },
  {
    what: "that is an authority's",
    code: "authority_as_leaf",
    issue: (use) => root.issue({ use, authority: true }),
  },
  {
    what: "that is revoked",
    code: "certificate_revoked",
    heard: /has been revoked/,
    issue: (use) => root.issue({ use }),
    lists: async (identity) => [await root.revocationList([identity])],
  },
  {
    what: "whose authority's revocation list has expired",
    code: "revocation_unknown",
    issue: (use) => root.issue({ use }),
    lists: async () => [await root.revocationList([], { days: -0.01 })],
  },
  {
    what: "one of whose authorities has no revocation list",
    code: "revocation_unknown",
    issue: (use) => intermediate.issue({ use }),
    lists: async () => [await root.revocationList()],
  },
];

/** Suites of TLS 1.2 alone, and of 1.3. */
const versions = { "1.2": ["ECDHE-ECDSA-AES256-GCM-SHA384"], "1.3": ["TLS_AES_256_GCM_SHA384"] };

// Whatever a process opens once is open before the first test.
for (const backend of backends) {
  await using place = new MeetingPlace({ identity: goodServer }, backend);
  const { client, server } = await place.meet({ trust: { authorities } }, backend);
  assertEquals(await Promise.all([client, server]), ["served", "served"]);
  await idle();
}

/** A test after which nothing is left of the connections that it made. */
function matrixTest(name: string, body: () => Promise<void>): void {
  Deno.test(name, async () => {
    await leavingNothing(body);
    await idle();
  });
}

function assertRefused(outcome: Outcome, code: FailureCode, words = /./): void {
  assert(outcome instanceof TlsError, String(outcome));
  assertEquals(outcome.code, code, outcome.message);
  assertMatch(outcome.message, /^[^\n]*127\.0\.0\.1:\d+[^\n]*[^.\n]$/);
  assertMatch(outcome.message, words);
  assert(outcome.remedy !== "");
}

/** What `client` makes of a certificate that `server` shows, and of a good one beside it. */
async function testServerCertificate(
  { issue, lists, code, heard, acceptedByDeno }: BadCertificate,
  server: Backend,
  client: Backend,
): Promise<void> {
  const identity = await issue("server");
  const revocationLists = await lists?.(identity) ?? [];
  await using good = new MeetingPlace({ identity: goodServer }, server);
  await using bad = new MeetingPlace({ identity }, server);
  const undisturbed = await good.meet({ trust: { authorities } }, client);
  const met = await bad.meet({ trust: { authorities, revocationLists } }, client);
  if (acceptedByDeno && client === "deno") {
    assertEquals(await Promise.all([met.client, met.server]), ["served", "served"]);
  } else {
    assertRefused(await met.client, code);
    assertRefused(await met.server, "certificate_rejected", heard);
  }
  assertEquals(await Promise.all([undisturbed.client, undisturbed.server]), ["served", "served"]);
}

/** What both sides make of a client's certificate, while another client of the server shows a good one. */
async function meetClient(
  version: keyof typeof versions,
  revocationLists: readonly string[],
  client: { readonly backend: Backend; readonly identity?: Identity },
  required = true,
): Promise<[client: Outcome, server: Outcome]> {
  const { backend, ...shown } = client;
  const trust = { authorities };
  const covered = revocationLists.length > 0
    ? [...revocationLists, await other.revocationList()]
    : [];
  await using place = new MeetingPlace({
    identity: goodServer,
    clientAuthentication: { trust: { authorities, revocationLists: covered }, required },
    settings: { ciphers: versions[version] },
  }, "openssl");
  const good = await place.meet({ trust, identity: goodClient }, "openssl");
  const bad = await place.meet({ trust, ...shown }, backend);
  assertEquals(await Promise.all([good.client, good.server]), ["served", "served"]);
  return await Promise.all([bad.client, bad.server]);
}

for (const row of matrix.filter(({ use }) => use !== "client")) {
  for (const server of backends) {
    // Deno's listener refuses such an identity itself.
    if (row.notShownByDeno && server === "deno") continue;
    for (const client of row.lists ? ["openssl"] as const : backends) {
      const verb = row.acceptedByDeno && client === "deno" ? "accepted" : "refused";
      matrixTest(
        `a server's certificate ${row.what} is ${verb} (${server}'s server, ${client}'s client)`,
        () => testServerCertificate(row, server, client),
      );
    }
  }
}

for (const { what, code, heard, issue, lists } of matrix.filter(({ use }) => use !== "server")) {
  for (const version of ["1.2", "1.3"] as const) {
    matrixTest(`a client's certificate ${what} is refused (TLS ${version})`, async () => {
      const identity = await issue("client");
      const revocationLists = await lists?.(identity) ?? [];
      const met = await meetClient(version, revocationLists, { backend: "openssl", identity });
      assertRefused(met[1], code);
      assertRefused(met[0], "certificate_rejected", heard);
    });
  }
}

for (const { what, code, heard, issue, lists } of matrix.filter(({ use }) => use !== "server")) {
  matrixTest(`a client's certificate ${what} is refused where none is required`, async () => {
    const identity = await issue("client");
    const revocationLists = await lists?.(identity) ?? [];
    const shown = { backend: "openssl", identity } as const;
    const met = await meetClient("1.3", revocationLists, shown, false);
    assertRefused(met[1], code);
    assertRefused(met[0], "certificate_rejected", heard);
  });
}

// With TLS 1.2 the alert says no more than that the handshake failed; libssl knows how far it got.
const heardWithout = {
  "1.2": { deno: "handshake_refused", openssl: "certificate_required" },
  "1.3": { deno: "certificate_required", openssl: "certificate_required" },
} as const;

for (const version of ["1.2", "1.3"] as const) {
  for (const backend of backends) {
    matrixTest(
      `a ${backend} client without a certificate is refused (TLS ${version})`,
      async () => {
        const [client, server] = await meetClient(version, [], { backend });
        assertRefused(server, "certificate_missing");
        assertRefused(client, heardWithout[version][backend]);
      },
    );
  }
}

Deno.test("libssl is chosen for what rustls cannot check, ask for or show", () => {
  const at = { hostname, port: 0 };
  const trust = { authorities };
  const listening = { ...at, identity: goodServer };
  assertEquals(listenerBackend(listening).backend, "deno");
  for (const required of [true, false]) {
    const clientAuthentication = { trust, required };
    const { backend, reason } = listenerBackend({ ...listening, clientAuthentication });
    assertEquals([backend, reason], ["openssl", "the options ask for client certificates"]);
  }
  const dialling = { ...at, trust, handshakeSeconds: 5 };
  assertEquals(dialerBackend(dialling).backend, "deno");
  assertEquals(dialerBackend({ ...dialling, identity: goodClient }).backend, "openssl");
  const checking = { ...dialling, trust: { ...trust, revocationLists: ["list"] } };
  assertEquals(dialerBackend(checking).backend, "openssl");
});

Deno.test("Deno's listener does not take a certificate with an unknown extension that must not be ignored", async () => {
  const identity = await root.issue({ use: "server", unknownExtension: true });
  assertThrows(() => new MeetingPlace({ identity }, "deno"), TlsError, "CriticalExtension");
});
