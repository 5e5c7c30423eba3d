import { assert, assertEquals, assertRejects } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { TlsError } from "../../lib/errors.ts";
import { parsePolicy } from "../../lib/security/policy_parser.ts";
import { MessageServer } from "../../lib/services/message_server.ts";
import { message } from "../../lib/services/plain_messages.ts";
import { Admission } from "../../lib/session/admission.ts";
import { defaultLimits } from "../../lib/session/limits.ts";
import type { TlsConnection, TlsListener } from "../../lib/tls/connection.ts";
import { messageTest } from "./message_scene.ts";

messageTest("echo, reverse and time are answered with the type of the question", async (scene) => {
  const client = await scene.client();
  assertEquals(await client.ask("ECHO", "hello"), "hello");
  assertEquals(await client.ask("REVERSE", "Grüße"), "eßürG");
  assert(Math.abs(Date.parse(await client.ask("TIME", "")) - Date.now()) < 60_000);
  assertEquals(await client.ask("ECHO", ""), "");
  client.close();
  const { level, reason, requests } = await scene.ended(client);
  assertEquals({ level, reason, requests }, { level: "info", reason: "closed", requests: 4 });
});

messageTest(
  "requests that come together are answered in order, large ones among them",
  async (scene) => {
    const client = await scene.client();
    const texts = Array.from({ length: 500 }, (_, index) => String(index));
    texts[100] = "x".repeat(2 ** 20);
    const sending = (async () => {
      for (const text of texts) await client.send("ECHO", text);
    })();
    for (const text of texts) assertEquals(await client.answer("ECHO"), text);
    await sending;
  },
);

messageTest("300 clients are served at once, each by itself", async (scene) => {
  const clients = await Promise.all(Array.from({ length: 300 }, () => scene.client()));
  const answers = await Promise.all(
    clients.map((client, index) => client.ask("REVERSE", `client ${index}`)),
  );
  assertEquals(
    answers,
    clients.map((_, index) => [...`client ${index}`].reverse().join("")),
  );
}, { connectionsPerSecond: 1000, handshakes: 2000 });

messageTest(
  "a client that ends its half of the connection still gets all answers",
  async (scene) => {
    const client = await scene.client();
    for (const text of ["one", "two", "x".repeat(500_000)]) await client.send("ECHO", text);
    await client.tls.closeWrite();
    assertEquals(await client.answer("ECHO"), "one");
    assertEquals(await client.answer("ECHO"), "two");
    assertEquals((await client.answer("ECHO")).length, 500_000);
    assert(await client.atEnd());
    assertEquals((await scene.ended(client)).reason, "closed");
  },
);

for (
  const [what, bytes, reason] of [
    ["of unknown type", [0, 0, 0, 9, 0, 0, 0, 0], "message_type"],
    ["beyond the limit", [0, 0, 0, 1, 0, 0x10, 0, 1], "message_length"],
  ] as const
) {
  messageTest(
    `a message ${what} ends its connection after the answers before it`,
    async (scene) => {
      const other = await scene.client();
      const client = await scene.client();
      const before = message("ECHO", new Uint8Array([97]));
      await client.write(new Uint8Array([...before, ...bytes]));
      assertEquals(await client.answer("ECHO"), "a");
      assert(await client.atEnd());
      const line = await scene.ended(client);
      assertEquals([line.level, line.reason, line.requests], ["warning", reason, 1]);
      assertEquals(await other.ask("ECHO", "undisturbed"), "undisturbed");
    },
  );
}

messageTest("a message that is cut off by its client's goodbye is named", async (scene) => {
  const client = await scene.client();
  await client.write(new Uint8Array([0, 0, 0, 1, 0, 0, 0, 5, 97]));
  await client.tls.closeWrite();
  assert(await client.atEnd());
  assertEquals((await scene.ended(client)).reason, "message_cut_off");
});

messageTest(
  "a client that stops in the handshake is cut off in time, others are served",
  async (scene) => {
    using silent = await scene.tcp();
    using slow = await scene.tcp();
    await slow.write(new Uint8Array([0x16, 3, 1, 2]));
    const client = await scene.client();
    for (const tcp of [silent, slow]) {
      assertEquals((await scene.ended(tcp)).reason, "handshake_timeout");
      assertEquals(await tcp.read(new Uint8Array(1)), null);
    }
    assertEquals(await client.ask("ECHO", "here"), "here");
  },
  { handshakeSeconds: 0.5 },
);

messageTest("a client that speaks no TLS is named, and others are served", async (scene) => {
  using tcp = await scene.tcp();
  await tcp.write(encode("GET / HTTP/1.1\r\n\r\n"));
  assertEquals((await scene.ended(tcp)).reason, "not_tls");
  assertEquals(await (await scene.client()).ask("ECHO", "here"), "here");
});

messageTest("clients of one address ask as much together as one may", async (scene) => {
  const started = performance.now();
  // Ten come at once, at most ten more for what was saved up meanwhile, and the others in two seconds.
  await Promise.all(Array.from({ length: 8 }, async () => {
    const client = await scene.client();
    for (let count = 0; count < 5; count++) assertEquals(await client.ask("ECHO", "a"), "a");
  }));
  const took = performance.now() - started;
  assert(took > 1900, `${took} ms`);
}, { messagesPerSecond: 10 });

messageTest(
  "a client that never reads is not read from, and cut off when it stays so",
  async (scene) => {
    const client = await scene.client();
    const request = message("ECHO", new Uint8Array(2 ** 20));
    let sent = 0;
    await assertRejects(async () => {
      for (; sent < 1000; sent++) await client.write(request);
    });
    assert(sent < 100, `${sent} MiB were taken`);
    const { reason, detail } = await scene.ended(client);
    assertEquals(reason, "idle_timeout");
    assertEquals(detail, "the client has read nothing for 1 seconds");
  },
  { idleSeconds: 1 },
);

messageTest("a client that says nothing is told goodbye, one that speaks is not", async (scene) => {
  const [silent, talking] = [await scene.client(), await scene.client()];
  const ended = silent.atEnd();
  let over = false;
  ended.then(() => over = true);
  let answers = 0;
  for (; !over; answers++) {
    assertEquals(await talking.ask("ECHO", "still here"), "still here");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert(await ended);
  assertEquals((await scene.ended(silent)).reason, "idle_timeout");
  assertEquals(await talking.ask("ECHO", "still here"), "still here");
}, { idleSeconds: 0.5 });

messageTest("clients beyond the limit are refused, and let in when one has gone", async (scene) => {
  const first = await scene.client();
  using second = await scene.tcp();
  assertEquals((await scene.ended(second)).reason, "message_clients");
  first.close();
  await scene.ended(first);
  assertEquals(await (await scene.client()).ask("ECHO", "here"), "here");
}, { messageClients: 1 });

messageTest(
  "clients of one address beyond its share are refused, and let in when one has gone",
  async (scene) => {
    const first = await scene.client();
    assertEquals(await first.ask("ECHO", "here"), "here");
    const second = await scene.client();
    assertEquals((await scene.ended(second)).reason, "message_clients_per_address");
    first.close();
    await scene.ended(first);
    assertEquals(await (await scene.client()).ask("ECHO", "here"), "here");
  },
  { messageClientsPerAddress: 1 },
);

messageTest(
  "requests that have not come in full hold the memory that they may, and no more",
  async (scene) => {
    // A quarter of the memory has room for either, and not for both, whichever comes first.
    const pending = await Promise.all([60_000, 20_000].map(async (length) => {
      const text = "x".repeat(length);
      return { client: await scene.client(), text, request: message("ECHO", encode(text)) };
    }));
    for (const { client, request } of pending) await client.write(request.subarray(0, -1));
    const refusing = pending.map(async ({ client }) => {
      assertEquals((await scene.ended(client)).reason, "message_memory");
      return client;
    });
    const refused = await deadline(Promise.race(refusing), 10_000);
    const { client, text, request } = pending.find(({ client }) => client !== refused)!;
    await client.write(request.subarray(-1));
    assertEquals(await client.answer("ECHO"), text);
    assertEquals(await (await scene.client()).ask("ECHO", text), text);
  },
  { messageMemory: 4 * 65_536 },
);

messageTest(
  "each client that was served has a line of its end, however many hit a limit",
  async (scene) => {
    const clients = await Promise.all(Array.from({ length: 30 }, () => scene.client()));
    for (const client of clients) assertEquals(await client.ask("ECHO", "here"), "here");
    const part = message("ECHO", encode("x".repeat(3000))).subarray(0, 2000);
    await Promise.all(clients.map((client) => client.write(part)));
    const ends = await deadline(Promise.all(clients.map((client) => scene.ended(client))), 10_000);
    assertEquals(new Set(ends.map(({ reason }) => reason)), new Set(["message_memory"]));
  },
  { messageMemory: 4096 },
);

messageTest("connections beyond the rate of an address are refused", async (scene) => {
  const first = await scene.client();
  using second = await scene.tcp();
  assertEquals((await scene.ended(second)).reason, "connection_rate");
  assertEquals(await first.ask("ECHO", "here"), "here");
}, { connectionsPerSecond: 1 });

messageTest("a client whose certificate is revoked is not served", async (scene) => {
  scene.checkRevocation = () =>
    Promise.reject(new TlsError("certificate_revoked", "it is revoked"));
  const client = await scene.client();
  assert(await client.atEnd());
  const { reason, requests } = await scene.ended(client);
  assertEquals([reason, requests], ["certificate_revoked", 0]);
});

messageTest(
  "a question about a certificate ends with the time for the handshake",
  async (scene) => {
    scene.checkRevocation = (_connection, signal) =>
      new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    const client = await scene.client();
    assertEquals((await scene.ended(client)).reason, "handshake_timeout");
  },
  { handshakeSeconds: 0.5 },
);

messageTest("a client is served as the policy allows, and as often at once", async (scene) => {
  const allowing = (allow: string) =>
    parsePolicy(`rules: [{ name: guests, match: { anonymous: true }, allow: ${allow} }]`, "policy");
  scene.policy = { rules: [] };
  const unmatched = await scene.client();
  assert(await unmatched.atEnd());
  assertEquals((await scene.ended(unmatched)).reason, "policy");

  scene.policy = await allowing("{ services: [files] }");
  const forbidden = await scene.client();
  assert(await forbidden.atEnd());
  const { reason, rule } = await scene.ended(forbidden);
  assertEquals([reason, rule], ["policy", "guests"]);

  scene.policy = await allowing("{ services: [messages], sessions: 1 }");
  const first = await scene.client();
  assertEquals(await first.ask("ECHO", "here"), "here");
  const second = await scene.client();
  assert(await second.atEnd());
  assertEquals((await scene.ended(second)).reason, "sessions_per_identity");
  first.close();
  await scene.ended(first);
  assertEquals(await (await scene.client()).ask("ECHO", "here"), "here");
});

messageTest("a server that stops says goodbye to clients that wait, and ends", async (scene) => {
  const waiting = await scene.client();
  assertEquals(await waiting.ask("ECHO", "hello"), "hello");
  using unfinished = await scene.tcp();
  // Served later than the connection before it: the server has taken that one too.
  const last = await scene.client();
  await last.ask("ECHO", "hello");
  const stopped = scene.stop();
  for (const client of [waiting, last]) {
    assert(await client.atEnd());
  }
  await stopped;
  for (const client of [waiting, last, unfinished]) {
    const { level, reason } = await scene.ended(client);
    assertEquals([level, reason], ["info", "shutdown"]);
  }
});

messageTest("a server that stops finishes the answer in hand", async (scene) => {
  const client = await scene.client();
  const request = message("ECHO", new Uint8Array(32 * 2 ** 20));
  await client.write(request);
  await client.read(1);
  const stopped = scene.stop();
  await client.read(request.length - 1);
  assert(await client.atEnd());
  await stopped;
  const { reason, requests } = await scene.ended(client);
  assertEquals([reason, requests], ["shutdown", 1]);
}, { messageBytes: 64 * 2 ** 20 });

messageTest(
  "a server that stops waits no longer than it must for one that does not read",
  async (scene) => {
    const client = await scene.client();
    await client.write(message("ECHO", new Uint8Array(32 * 2 ** 20)));
    await client.read(1);
    const started = performance.now();
    await scene.stop();
    assert(performance.now() - started < 1000);
    assertEquals((await scene.ended(client)).reason, "shutdown");
  },
  { messageBytes: 64 * 2 ** 20, drainSeconds: 0.2 },
);

Deno.test("a client that never lets the server wait leaves time for others", async () => {
  const stopping = new AbortController();
  const request = message("ECHO", new Uint8Array(100));
  let requests = 0;
  const server = new MessageServer(
    listenerOf({
      ...silent,
      read(buffer) {
        if (stopping.signal.aborted) return Promise.resolve(null);
        requests += 1;
        buffer.set(request);
        return Promise.resolve(request.length);
      },
    }),
    { limits: defaultLimits, admission: new Admission(defaultLimits) },
  );
  const running = server.run(stopping.signal);
  await new Promise((resolve) => setTimeout(resolve, 50));
  stopping.abort();
  await running;
  assert(requests > 100);
});

const endpoint = { hostname: "192.0.2.1", port: 1 };

/** A connection that is always ready, and says nothing. */
const silent: TlsConnection = {
  alpn: null,
  peerAddress: endpoint,
  localAddress: endpoint,
  handshake: undefined,
  peerCertificates: [],
  read: () => Promise.resolve(null),
  write: () => Promise.resolve(),
  close: () => Promise.resolve(),
  abort: () => {},
};

/** Listens, and accepts this connection alone. */
function listenerOf(connection: TlsConnection): TlsListener {
  const closed = Promise.withResolvers<void>();
  return {
    address: endpoint,
    handshakes: undefined,
    update: () => Promise.resolve(),
    close: closed.resolve,
    async *[Symbol.asyncIterator]() {
      yield {
        peerAddress: endpoint,
        handshake: () => Promise.resolve(connection),
        abort: () => {},
      };
      await closed.promise;
    },
  };
}

function encode(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}
