import { assert, assertEquals, assertRejects } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { FrameType, makeFrame } from "../../lib/control/frame.ts";
import { decode, encode } from "../../lib/control/messages.ts";
import { ProtocolError } from "../../lib/errors.ts";
import { ControlConnection } from "../../lib/session/control_connection.ts";
import type { TlsConnection } from "../../lib/tls/connection.ts";
import { type TlsPair, tlsPair } from "./tls_pair.ts";

/** A connection under test, and the bare TLS end of its peer. */
function connectionTest(
  name: string,
  test: (connection: ControlConnection, peer: TlsConnection, pair: TlsPair) => Promise<void>,
): void {
  Deno.test(name, async () => {
    await using pair = await tlsPair();
    await test(new ControlConnection(pair.near), pair.far, pair);
  });
}

const ping = (id: number) => encode({ name: "PING", body: { id } });

/** Many frames in one piece. */
function pings(count: number): Uint8Array {
  return new Uint8Array(Array.from({ length: count }, (_, id) => [...ping(id).bytes]).flat());
}

connectionTest("frames come in their order, and null after the last", async (connection, peer) => {
  await peer.write(pings(200));
  const closing = peer.close();
  for (let id = 0; id < 200; id++) {
    assertEquals(decode((await connection.next())!), { name: "PING", body: { id } });
  }
  assertEquals(await connection.next(), null);
  assertEquals(await connection.ended, undefined);
  await Promise.all([closing, connection.close()]);
});

connectionTest("a peer that hangs up within a frame is found out", async (connection, peer) => {
  await peer.write(ping(1).bytes.subarray(0, 10));
  const closing = peer.close();
  assertEquals(await connection.next(), null);
  const failure = await connection.ended;
  assertEquals([failure instanceof ProtocolError, failure?.code], [true, "frame_cut_off"]);
  await Promise.all([closing, connection.close()]);
});

connectionTest("a peer that vanishes is a lost connection", async (connection, peer) => {
  peer.abort();
  assertEquals(await connection.next(), null);
  assertEquals((await connection.ended)?.code, "connection_lost");
});

connectionTest("frames before a broken one still come", async (connection, peer) => {
  await peer.write(ping(7).bytes);
  assertEquals((await connection.next())?.name, "PING");
  const header = new DataView(new ArrayBuffer(8));
  header.setUint32(0, FrameType.REQUEST);
  header.setUint32(4, 0xffff_ffff);
  await peer.write(new Uint8Array(header.buffer));
  assertEquals(await connection.next(), null);
  assertEquals((await connection.ended)?.code, "frame_length");
});

connectionTest(
  "a peer that sends more than is taken has to wait, and nothing is lost",
  async (connection, peer) => {
    const body = new TextEncoder().encode(JSON.stringify("x".repeat(60_000)));
    const large = makeFrame("REQUEST", body);
    const count = 300;
    let written = 0;
    const writing = (async () => {
      for (; written < count; written++) await peer.write(large.bytes);
    })();
    // The first frames are there, and the kernel's buffers hold some; 18 MB they do not hold.
    await connection.next();
    await assertRejects(() => deadline(writing, 500));
    for (let taken = 1; taken < count; taken++) {
      assertEquals((await connection.next())?.body.length, body.length);
    }
    await writing;
  },
);

Deno.test("a SECRET stands nowhere but in its frame once it was read", async () => {
  const secret = makeFrame("SECRET", new Uint8Array(32).fill(7)).bytes;
  const chunks: Uint8Array[] = [];
  const tls: Pick<TlsConnection, "read"> = {
    read(chunk) {
      if (chunks.push(chunk) > 1) return Promise.resolve(null);
      chunk.set(secret);
      return Promise.resolve(secret.length);
    },
  };
  const connection = new ControlConnection(tls as TlsConnection);
  assertEquals((await connection.next())?.bytes, secret);
  await connection.ended;
  for (const chunk of chunks) assert(chunk.every((byte) => byte === 0));
});

for (const bodyBytes of [60_000, 1000, 0]) {
  Deno.test(`of a peer that sends without end little is read ahead, in frames of ${bodyBytes} bytes`, async () => {
    const { bytes } = makeFrame("REQUEST", new Uint8Array(bodyBytes));
    let sent = 0;
    const tls: Pick<TlsConnection, "read"> = {
      read(chunk) {
        for (let at = 0; at < chunk.length; at++) chunk[at] = bytes[sent++ % bytes.length]!;
        return Promise.resolve(chunk.length);
      },
    };
    const connection = new ControlConnection(tls as TlsConnection);
    // All that is read at once is read before timers are looked at.
    const readAll = () => new Promise((resolve) => setTimeout(resolve));
    await readAll();
    for (let taken = 0; taken < 40; taken++) {
      const ahead = sent - taken * bytes.length;
      assert(ahead < bytes.length + 2 * 16384, `${ahead} bytes ahead`);
      assert(connection.waiting > 0);
      assertEquals((await connection.next())?.body.length, bodyBytes);
      await readAll();
    }
  });
}

connectionTest(
  "closing takes no more than a moment, although the peer sends without end",
  async (connection, peer) => {
    const flood = pings(1000);
    let flooding = true;
    const writing = (async () => {
      while (flooding) await peer.write(flood);
    })().catch(() => {});
    await connection.next();
    await deadline(connection.close(), 3000);
    flooding = false;
    peer.abort();
    await writing;
  },
);

connectionTest(
  "closing takes no more than a moment, although the peer reads nothing",
  async (connection, peer) => {
    const text = "x".repeat(60_000);
    const message = { name: "REQUEST", body: { id: 1, service: "files", body: text } } as const;
    const sending = Array.from({ length: 500 }, () => connection.send(message).catch(() => {}));
    connection.sendLast({ name: "BYE", body: {} });
    await deadline(connection.close(), 3000);
    await Promise.all(sending);
    peer.abort();
  },
);
