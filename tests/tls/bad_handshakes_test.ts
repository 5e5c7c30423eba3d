import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { delay } from "@std/async/delay";
import { idle } from "../../ffi/epoll.ts";
import { TlsError } from "../../lib/errors.ts";
import type { Backend } from "../../lib/tls/backend.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import type { FailureCode } from "../../lib/tls/failure.ts";
import { backends, leavingNothing } from "./meeting.ts";
import { sClient } from "./peers.ts";
import { HandshakeScene, hostname } from "./handshake_scene.ts";

const encoder = new TextEncoder();
const stranger = await createCertificates({ hosts: [], days: 1 });

// Whatever a process opens once is open before the first test.
for (const backend of backends) {
  await using scene = new HandshakeScene(backend);
  await scene.assertServed(await scene.client());
}
await idle();

/** Something that a server has to refuse. */
interface Attack {
  readonly name: string;
  /** Attacks, and waits until the server has ended the connection. */
  readonly attack: (scene: HandshakeScene) => Promise<unknown>;
  readonly code: Readonly<Record<Backend, FailureCode | "exchange_timeout">>;
  readonly detail?: RegExp;
  readonly handshakeSeconds?: number;
}

function both(code: FailureCode | "exchange_timeout") {
  return { deno: code, openssl: code };
}

/** A TLS record of the handshake's type, with the version of a ClientHello (RFC 8446, section 5.1). */
function record(length: number, ...content: number[]): Uint8Array<ArrayBuffer> {
  return Uint8Array.of(22, 3, 1, length >> 8, length & 255, ...content);
}

/** A plain TCP client that sends this, and reads until the server hangs up. */
async function send(
  { port }: { port: number },
  parts: Iterable<Uint8Array>,
  { closes = false, pause = 0 } = {},
): Promise<void> {
  using tcp = await Deno.connect({ hostname, port });
  const sending = (async () => {
    for (const part of parts) {
      await tcp.write(part);
      if (pause > 0) await delay(pause);
    }
    if (closes) await tcp.closeWrite();
  })().catch(() => {}); // the server may have hung up
  const buffer = new Uint8Array(4096);
  while (await tcp.read(buffer).catch(() => null) !== null);
  await sending;
}

/** The first record of application data among whole records (RFC 8446, section 5.1). */
function applicationData(records: Uint8Array): Uint8Array | undefined {
  for (let at = 0; at < records.length;) {
    const length = 5 + (records[at + 3]! << 8 | records[at + 4]!);
    if (records[at] === 23) return records.subarray(at, at + length);
    at += length;
  }
  return undefined;
}

/**
 * A client behind a relay that changes its first record of application data: with TLS 1.3 that is
 * still of the handshake, with TLS 1.2 not.
 *
 * @param position of the byte of which a bit is flipped; from the end, if negative
 */
async function tamper(scene: HandshakeScene, version: string, position: number): Promise<void> {
  using relay = Deno.listen({ hostname, port: 0 });
  const client = sClient(relay.addr.port, [version], "HELLO\n");
  using near = await relay.accept();
  using far = await Deno.connect({ hostname, port: scene.port });
  let found = false;
  const change = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      const record = found ? undefined : applicationData(chunk);
      if (record) {
        found = true;
        record.set([record.at(position)! ^ 1], (position + record.length) % record.length);
      }
      controller.enqueue(chunk);
    },
  });
  await Promise.allSettled([
    near.readable.pipeThrough(change).pipeTo(far.writable),
    far.readable.pipeTo(near.writable),
    client,
  ]);
}

const attacks: readonly Attack[] = [
  {
    name: "a handshake of which a byte comes now and then",
    attack: (scene) =>
      send(scene, [record(512, 1, 0, 1, 252), ...Array(500).fill(Uint8Array.of(3))], { pause: 20 }),
    code: both("exchange_timeout"),
    handshakeSeconds: 1,
  },
  {
    name: "plain HTTP",
    attack: (scene) => send(scene, [encoder.encode("GET / HTTP/1.1\r\nHost: storage\r\n\r\n")]),
    code: both("not_tls"),
    detail: /HTTP/,
  },
  {
    name: "a record that ends early",
    attack: (scene) => send(scene, [record(512, 1, 0, 1, 252, 3, 3)], { closes: true }),
    code: both("connection_lost"),
  },
  {
    name: "a connection that is closed without a word",
    attack: (scene) => send(scene, [], { closes: true }),
    code: both("connection_lost"),
  },
  {
    name: "noise",
    attack: (scene) => send(scene, [new Uint8Array(64).fill(0xee)]),
    code: both("not_tls"),
  },
  {
    name: "a message that has no place at the beginning of a handshake",
    attack: (scene) => send(scene, [record(4, 20, 0, 0, 0)]),
    code: both("handshake_failed"),
  },
  {
    name: "a message of the handshake that is longer than any",
    attack: (scene) =>
      send(scene, [
        record(16384, 1, 0xff, 0xff, 0xff),
        new Uint8Array(16380),
        ...Array(64).fill(Uint8Array.from([...record(16384), ...new Uint8Array(16384)])),
      ]),
    code: both("handshake_failed"),
  },
  {
    name: "a record of the handshake that was changed on its way",
    attack: (scene) => tamper(scene, "-tls1_3", -1),
    code: both("tampered"),
  },
  ...Object.entries({ content: -1, type: 0, version: 1 }).map(([part, position]) => ({
    name: `a record whose ${part} was changed on its way`,
    attack: (scene: HandshakeScene) => tamper(scene, "-tls1_2", position),
    code: both("tampered"),
  })),
  {
    name: "a renegotiation",
    attack: (scene) => sClient(scene.port, ["-tls1_2"], "R\n"),
    code: both("renegotiation"),
  },
  {
    name: "a downgrade (TLS_FALLBACK_SCSV)",
    attack: (scene) => sClient(scene.port, ["-tls1_2", "-fallback_scsv"]),
    // rustls leaves it to the client, who sees a mark in the server's random (RFC 8446, section 4.1.3).
    code: { deno: "handshake_failed", openssl: "downgrade" },
  },
  {
    name: "a client that does not trust the server's certificate",
    attack: async (scene) => {
      const client = scene.client({ trust: { authorities: [stranger.ca.certificate] } });
      await assertRejects(() => client, TlsError);
    },
    code: both("certificate_rejected"),
    detail: /not trusted there/,
  },
  {
    name: "TLS 1.1",
    attack: (scene) => sClient(scene.port, ["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"]),
    code: both("version_refused"),
  },
  {
    name: "a client with weak ciphers only",
    attack: (scene) => sClient(scene.port, ["-tls1_2", "-cipher", "AES128-SHA"]),
    code: both("no_common_cipher"),
  },
];

for (const { name, attack, code, detail = /./, handshakeSeconds = 10 } of attacks) {
  for (const backend of backends) {
    Deno.test(`${name} is refused with one line, and others are undisturbed (${backend})`, async () => {
      await leavingNothing(async () => {
        await using scene = new HandshakeScene(backend, { limits: { handshakeSeconds } });
        const before = await scene.client();
        const attacking = attack(scene);
        const during = await scene.client();
        await scene.assertServed(before);
        await scene.assertServed(during);
        await attacking;
        const line = await scene.ended();
        assertEquals([line.level, line.reason], ["warning", code[backend]], String(line.detail));
        assertMatch(String(line.detail), detail);
        assertMatch(String(line.peer), /^127\.0\.0\.1:\d+$/);
      });
      await idle();
    });
  }
}

Deno.test("a client without a certificate is refused with one line, and others are undisturbed", async () => {
  await leavingNothing(async () => {
    await using scene = new HandshakeScene("openssl", { clientCertificates: true });
    const before = await scene.client();
    await sClient(scene.port, []);
    await scene.assertServed(before);
    const { level, reason, peer } = await scene.ended();
    assertEquals([level, reason], ["warning", "certificate_missing"]);
    assertMatch(String(peer), /^127\.0\.0\.1:\d+$/);
  });
  await idle();
});
