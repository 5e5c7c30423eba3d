/** Ends of what libssl and the kernel have lent, at moments when something else is under way. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { idle, readable } from "../../ffi/epoll.ts";
import { pointerAt } from "../../ffi/layout.ts";
import { C, libc } from "../../ffi/libc.ts";
import { libssl } from "../../ffi/libssl.ts";
import { TlsError } from "../../lib/errors.ts";
import { dial, listen } from "../../lib/tls/backend.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import type { IncomingConnection, TlsConnection } from "../../lib/tls/connection.ts";
import { openDescriptor } from "../../lib/tls/descriptor.ts";
import { type OpensslConnection, TlsSocket } from "../../lib/tls/openssl_connection.ts";
import { TlsContext } from "../../lib/tls/openssl_context.ts";
import type { DialOptions, ListenOptions } from "../../lib/tls/options.ts";
import { setImmediate } from "node:timers/promises";

/** openssl/ssl.h. */
const SSL_KEY_UPDATE_NOT_REQUESTED = 0;

const hostname = "127.0.0.1";
const certificates = await createCertificates({ hosts: ["localhost"], days: 1 });
const trust = { authorities: [certificates.ca.certificate] };
const backend = "openssl";

// Deno's check for leaks wants libraries loaded before the first test.
const loading = { hostname, port: 0, identity: certificates.server, staple: () => undefined };
listen(loading, { backend }).close();
TlsContext.client({ trust })[Symbol.dispose]();

function serve(options: Partial<ListenOptions> = {}) {
  const whole = { hostname, port: 0, identity: certificates.server, ...options };
  const listener = listen(whole, { backend });
  const incoming = listener[Symbol.asyncIterator]();
  const { port } = listener.address;
  const accept = async (): Promise<IncomingConnection> => (await incoming.next()).value;
  const dialServer = (options: Partial<DialOptions> = {}) =>
    dial({ hostname, port, serverName: "localhost", trust, handshakeSeconds: 5, ...options }, {
      backend,
    });
  return {
    listener,
    accept,
    dial: dialServer,
    async [Symbol.asyncDispose]() {
      listener.close();
      await incoming.return?.();
      await idle();
    },
  };
}

Deno.test("however an address is written, the certificate has to be for it", async () => {
  await using server = serve();
  for (const serverName of ["127.1", "2130706433", "0x7f.0.0.1", "::1%lo", ""]) {
    const refused = assertRejects(() => server.dial({ serverName }), TlsError);
    const other = await server.accept();
    await assertRejects(() => other.handshake(), TlsError);
    const code = serverName === "" ? "name_invalid" : "wrong_name";
    assertEquals((await refused).code, code, serverName);
  }
});

Deno.test("a listener that is closed takes no other certificate", async () => {
  const server = serve();
  const another = serve();
  await server[Symbol.asyncDispose]();
  for (let count = 0; count < 100; count++) {
    await server.listener.update({ identity: certificates.server });
  }
  await another[Symbol.asyncDispose]();
});

Deno.test("a response to staple does not outlast the certificate that it is about", async () => {
  let asked = 0;
  const staple = () => {
    asked += 1;
    return undefined;
  };
  await using server = serve({ staple });
  const meet = async () => {
    const [client, other] = await Promise.all([
      server.dial({ ocsp: "prefer" }),
      server.accept().then((incoming) => incoming.handshake()),
    ]);
    await Promise.all([client.close(), other.close()]);
  };
  await meet();
  await server.listener.update({ identity: certificates.server });
  await meet();
  assertEquals(asked, 1);
});

Deno.test("ending a handshake does not shut down whom the descriptor belongs to next", async () => {
  await using server = serve();
  const { port } = server.listener.address;
  using _silent = await Deno.connect({ hostname, port });
  const silent = await server.accept();
  const givenUp = assertRejects(() => silent.handshake(), TlsError);
  using tcp = await Deno.connect({ hostname, port });
  silent.abort();
  // It gets the lowest number that is free: the one that the other had.
  const next = await server.accept();
  await givenUp;
  const refused = assertRejects(() => next.handshake(), TlsError);
  // A ServerHello from a client: an alert is the answer.
  await tcp.write(Uint8Array.of(22, 3, 1, 0, 4, 2, 0, 0, 0));
  await refused;
  assertEquals(await tcp.read(new Uint8Array(100)), 7);
});

for (const ticks of [0, 1, 2, 3, 4, 5]) {
  Deno.test(`a handshake can be given up when it is just over, ${ticks} microtasks later`, async () => {
    await using server = serve();
    const client = server.dial();
    const incoming = await server.accept();
    const descriptor: number = Reflect.get(incoming, "descriptor");
    const handshake = incoming.handshake();
    (await client).abort();
    // The one that the handshake waits for, too.
    await readable(descriptor);
    for (let tick = 0; tick < ticks; tick++) await Promise.resolve();
    incoming.abort();
    const [result] = await Promise.allSettled([handshake]);
    if (result.status === "rejected") assertEquals(result.reason.code, "connection_closed");
    else assertEquals(await result.value.read(new Uint8Array(1)), null);
  });
}

Deno.test("what has come before a connection was reset can be read, though writing fails", async () => {
  await using server = serve();
  const dialling = server.dial();
  const other = await (await server.accept()).handshake();
  const client = await dialling;
  await client.write(new TextEncoder().encode("hello"));
  // It resets the connection, as the server's ticket was not read.
  client.abort();
  await assertRejects(async () => {
    for (;;) await other.write(new Uint8Array(1));
  }, TlsError);
  const buffer = new Uint8Array(10);
  const count = await other.read(buffer);
  assertEquals(new TextDecoder().decode(buffer.subarray(0, count ?? 0)), "hello");
  other.abort();
});

Deno.test("a connection that always has something to read leaves others their turn", async () => {
  using context = TlsContext.client({ trust });
  using socket = TlsSocket.create(context.pointer, libc().socket(C.AF_INET, C.SOCK_DGRAM, 0));
  let turn = false;
  setTimeout(() => turn = true);
  const end = performance.now() + 1000;
  while (!turn && performance.now() < end) await socket.run(() => 1);
  assert(turn);
});

Deno.test("a peer that changes its keys again and again leaves others their turn", async () => {
  using closing = new DisposableStack();
  const { symbols } = closing.adopt(
    Deno.dlopen("libssl.so.3", {
      SSL_key_update: { parameters: ["pointer", "i32"], result: "i32" },
    }),
    (library) => library.close(),
  );
  await using server = serve();
  const dialling = server.dial();
  const other = await (await server.accept()).handshake();
  const client = await dialling;
  const { ssl, descriptor } = (other as OpensslConnection).detach();
  using socket = TlsSocket.of(pointerAt(ssl)!, descriptor);
  const update = () => symbols.SSL_key_update(socket.ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
  for (let count = 0; count < 1000; count++) {
    assertEquals([update(), libssl().SSL_do_handshake(socket.ssl)], [1, 1]);
  }
  const reading = client.read(new Uint8Array(1));
  for (let turn = 0; turn < 3; turn++) await setImmediate();
  const unread = new Uint8Array(1);
  assertEquals(libc().recv(descriptorOf(client), unread, 1n, 0), 1n);
  client.abort();
  assertEquals(await reading, null);
});

function descriptorOf({ localAddress, peerAddress }: TlsConnection): number {
  const [local, peer] = [localAddress, peerAddress].map((end) =>
    ({ transport: "tcp", ...end }) as const
  );
  return openDescriptor(local!, peer!);
}
