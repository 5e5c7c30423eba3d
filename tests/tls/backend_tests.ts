import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { idle } from "../../ffi/epoll.ts";
import { C, libc } from "../../ffi/libc.ts";
import { TlsError, VerbsealError } from "../../lib/errors.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import type { IncomingConnection, TlsConnection } from "../../lib/tls/connection.ts";
import { type Backend, dial, listen } from "../../lib/tls/backend.ts";
import { descriptorOf } from "../../lib/tls/descriptor.ts";
import type { DialOptions } from "../../lib/tls/options.ts";
import type { Identity } from "../../lib/tls/trust.ts";
import { daysFromNow, oddCertificate } from "./odd_certificates.ts";
import { openssl, withFolder } from "./openssl.ts";
import "./loaded_libssl.ts";

const certificates = await createCertificates({ hosts: ["localhost", "127.0.0.1"], days: 1 });
const trust = { authorities: [certificates.ca.certificate] };
const hostname = "127.0.0.1";

/** A server's identity whose key openssl makes, which is quicker with RSA than WebCrypto is. */
async function issuedByOpenssl(keyType: string): Promise<Identity> {
  let issued: Identity | undefined;
  await withFolder(async (folder) => {
    const [ca, caKey, certificate, key] = ["ca", "caKey", "certificate", "key"]
      .map((name) => `${folder}/${name}`) as [string, string, string, string];
    await Deno.writeTextFile(ca, certificates.ca.certificate);
    await Deno.writeTextFile(caKey, certificates.ca.key);
    const { success, text } = await openssl(
      ...["req", "-x509", "-CA", ca, "-CAkey", caKey, "-newkey", ...keyType.split(" "), "-nodes"],
      ...["-subj", "/CN=server", "-days", "1", "-addext", "basicConstraints=critical,CA:FALSE"],
      ...["-addext", `subjectAltName=IP:${hostname}`, "-out", certificate, "-keyout", key],
    );
    assert(success, text);
    issued = {
      certificate: await Deno.readTextFile(certificate),
      key: await Deno.readTextFile(key),
    };
  });
  return issued!;
}

/** What a TLS backend has to do, whichever it is. */
export function testBackend(backend: Backend): void {
  const test = (name: string, body: () => Promise<void>) =>
    Deno.test(`${backend}: ${name}`, async () => {
      await body();
      await idle();
    });

  /** A listener on a free port, and the connections that it accepts. */
  function serve(identity: Identity = certificates.server) {
    const listener = listen({ hostname, port: 0, identity }, { backend });
    const incoming = listener[Symbol.asyncIterator]();
    return {
      listener,
      port: listener.address.port,
      async accept(): Promise<IncomingConnection> {
        const { value } = await incoming.next();
        return value;
      },
      async [Symbol.asyncDispose]() {
        const end = incoming.next();
        listener.close();
        assertEquals((await end).done, true);
      },
    };
  }

  type Server = ReturnType<typeof serve>;

  function dialTo(port: number, options: Partial<DialOptions> = {}): Promise<TlsConnection> {
    return dial({ hostname, port, trust, handshakeSeconds: 5, ...options }, { backend });
  }

  /** Both ends of a connection. */
  async function connected(server: Server): Promise<[TlsConnection, TlsConnection]> {
    const client = dialTo(server.port);
    const other = await (await server.accept()).handshake();
    return [await client, other];
  }

  /** Why a client does not connect to a server of this identity, and what the server makes of it. */
  async function refusal(
    identity: Identity,
    options: Partial<DialOptions>,
  ): Promise<[TlsError, TlsError]> {
    await using server = serve(identity);
    const client = assertRejects(() => dialTo(server.port, options), TlsError);
    const other = await server.accept();
    const refused = assertRejects(() => other.handshake(), TlsError);
    return [await client, await refused];
  }

  async function readText(connection: TlsConnection, length: number): Promise<string> {
    const bytes = new Uint8Array(length);
    let at = 0;
    while (at < length) {
      const count = await connection.read(bytes.subarray(at));
      assert(count !== null, "the connection ended early");
      at += count;
    }
    return new TextDecoder().decode(bytes);
  }

  const encode = (text: string) => new TextEncoder().encode(text);

  test("bytes arrive in order both ways, and both ends know each other's address", async () => {
    await using server = serve();
    const [client, other] = await connected(server);
    const expected = Array.from({ length: 1000 }, (_, index) => `message ${index};`);
    const writes = expected.map((text) => client.write(encode(text)));
    assertEquals(await readText(other, expected.join("").length), expected.join(""));
    await Promise.all(writes);
    await other.write(encode("thanks"));
    assertEquals(await readText(client, 6), "thanks");
    assertEquals(client.alpn, "verbseal/1");
    assertEquals(client.peerAddress, { hostname, port: server.port });
    assertEquals(client.localAddress, other.peerAddress);
    await Promise.all([client.close(), other.close()]);
  });

  for (
    const [name, keyType] of [
      ["ECDSA P-256", "ec -pkeyopt ec_paramgen_curve:P-256"],
      ["Ed25519", "ed25519"],
      ["RSA 4096", "rsa:4096"],
    ] as const
  ) {
    test(`a server may have a key of the type ${name}`, async () => {
      await using server = serve(await issuedByOpenssl(keyType));
      const [client, other] = await connected(server);
      await other.write(encode("hello"));
      assertEquals(await readText(client, 5), "hello");
      await Promise.all([client.close(), other.close()]);
    });
  }

  test("what is written does not change what the caller holds", async () => {
    await using server = serve();
    const [client, other] = await connected(server);
    const bytes = encode("kept");
    await client.write(bytes);
    assertEquals(new TextDecoder().decode(bytes), "kept");
    await Promise.all([client.close(), other.close()]);
  });

  test("the last words of a side that closes arrive, though it was sent more", async () => {
    await using server = serve();
    const [client, other] = await connected(server);
    await client.write(new Uint8Array(100_000));
    void other.write(encode("refused"));
    const closing = other.close();
    assertEquals(await readText(client, 7), "refused");
    assertEquals(await client.read(new Uint8Array(1)), null);
    await client.close();
    await closing;
  });

  test("a connection that is cut without a goodbye is reported as lost", async () => {
    await using server = serve();
    const relay = Deno.listen({ hostname, port: 0 });
    const client = dialTo(relay.addr.port);
    const near = await relay.accept();
    const far = await Deno.connect({ hostname, port: server.port });
    const relayed = Promise.allSettled([
      near.readable.pipeTo(far.writable),
      far.readable.pipeTo(near.writable),
    ]);
    const other = await (await server.accept()).handshake();
    const connection = await client;
    near.close();
    await assertRejects(() => connection.read(new Uint8Array(1)), TlsError, "was lost");
    connection.abort();
    other.abort();
    relay.close();
    await relayed;
  });

  test("reading ends when this side closes, and writing is refused then", async () => {
    await using server = serve();
    const [client, other] = await connected(server);
    const reading = client.read(new Uint8Array(1));
    client.abort();
    assertEquals(await reading, null);
    await assertRejects(() => client.write(encode("late")), TlsError, "is closed");
    await other.close();
  });

  test("a connection is cut at once, though its peer reads nothing of what is written", async () => {
    await using server = serve();
    const [client, other] = await connected(server);
    const size = 64 * 1024 ** 2;
    const writing = assertRejects(() => other.write(new Uint8Array(size)), TlsError, "is closed");
    const buffer = new Uint8Array(64 * 1024);
    let received = await client.read(buffer) ?? 0;
    other.abort();
    await writing;
    await assertRejects(
      async () => {
        for (let count; (count = await client.read(buffer)) !== null;) received += count;
      },
      TlsError,
      "was lost",
    );
    assert(received < size);
    client.abort();
  });

  test("accepted sockets send small writes at once and notice a peer that vanished", async () => {
    await using server = serve();
    const [client, other] = await connected(server);
    const [local, peer] = [other.localAddress, other.peerAddress];
    const descriptor = descriptorOf({ ...local, transport: "tcp" }, { ...peer, transport: "tcp" });
    assert(descriptor !== undefined);
    const option = (level: number, name: number) => {
      const value = new Int32Array(1);
      libc().getsockopt(descriptor, level, name, value, Uint32Array.of(4));
      return value[0];
    };
    assertEquals(option(C.IPPROTO_TCP, C.TCP_NODELAY), 1);
    assertEquals(option(C.SOL_SOCKET, C.SO_KEEPALIVE), 1);
    await Promise.all([client.close(), other.close()]);
  });

  test("a certificate of an unknown authority is refused, and --ca is the remedy", async () => {
    const stranger = await createCertificates({ hosts: [hostname], days: 1 });
    const [client, server] = await refusal(stranger.server, {});
    assertEquals(client.code, "unknown_issuer");
    assert(client.remedy.includes("--ca"));
    assertEquals(server.code, "certificate_rejected");
  });

  test("a certificate for another host is refused, and the hosts it is for are named", async () => {
    const [client] = await refusal(certificates.server, { serverName: "storage.example" });
    assertEquals(client.code, "wrong_name");
    assert(client.message.endsWith("is not for storage.example but for localhost or 127.0.0.1"));
  });

  test("a certificate out of its time is refused", async () => {
    const old = await oddCertificate({ notBefore: daysFromNow(-2), notAfter: daysFromNow(-1) });
    const trusting = { trust: { authorities: [old.certificate] }, serverName: "localhost" };
    assertEquals((await refusal(old, trusting))[0].code, "certificate_expired");
    const early = await oddCertificate({ notBefore: daysFromNow(1), notAfter: daysFromNow(2) });
    const believing = { trust: { authorities: [early.certificate] }, serverName: "localhost" };
    assertEquals((await refusal(early, believing))[0].code, "certificate_not_valid");
  });

  test("an authority's certificate is refused as the server's own", async () => {
    const authority = await oddCertificate({ authority: true });
    const trusting = { trust: { authorities: [authority.certificate] }, serverName: "localhost" };
    assertEquals((await refusal(authority, trusting))[0].code, "authority_as_leaf");
  });

  for (const [what, alpnProtocols] of [["another", ["h2"]], ["no", undefined]] as const) {
    test(`a client that offers ${what} protocol is refused with a named reason`, async () => {
      await using server = serve();
      using client = await Deno.connectTls({
        hostname,
        port: server.port,
        caCerts: trust.authorities,
        ...(alpnProtocols && { alpnProtocols: [...alpnProtocols] }),
      });
      const hello = client.handshake().catch(() => {});
      const incoming = await server.accept();
      const error = await assertRejects(() => incoming.handshake(), TlsError);
      assertEquals(error.code, "other_protocol");
      await hello;
    });
  }

  for (const [what, alpnProtocols] of [["another", ["h2"]], ["no", undefined]] as const) {
    test(`a server that speaks ${what} protocol is refused with a named reason`, async () => {
      using server = Deno.listenTls({
        hostname,
        port: 0,
        cert: certificates.server.certificate,
        key: certificates.server.key,
        ...(alpnProtocols && { alpnProtocols: [...alpnProtocols] }),
      });
      const client = assertRejects(() => dialTo(server.addr.port), TlsError);
      using other = await server.accept();
      await other.handshake().catch(() => {});
      assertEquals((await client).code, "other_protocol");
    });
  }

  test("each side knows when the other does not speak TLS", async () => {
    await using server = serve();
    using client = await Deno.connect({ hostname, port: server.port });
    await client.write(encode("GET / HTTP/1.1\r\n\r\n"));
    const incoming = await server.accept();
    const seen = await assertRejects(() => incoming.handshake(), TlsError);
    assertEquals(seen.code, "not_tls");

    using plain = Deno.listen({ hostname, port: 0 });
    const dialled = assertRejects(() => dialTo(plain.addr.port), TlsError);
    using other = await plain.accept();
    await other.write(encode("SSH-2.0-OpenSSH_9.2p1 Debian\r\n"));
    assertEquals((await dialled).code, "not_tls");
  });

  test("a handshake with a peer that says nothing ends when it is aborted", async () => {
    await using server = serve();
    using client = await Deno.connect({ hostname, port: server.port });
    const incoming = await server.accept();
    const silent = assertRejects(() => incoming.handshake(), TlsError);
    incoming.abort();
    await silent;
    assertEquals(await client.read(new Uint8Array(1)), null);
  });

  test("a server that says nothing is given up on in time", async () => {
    using mute = Deno.listen({ hostname, port: 0 });
    const error = await assertRejects(() => dialTo(mute.addr.port, { handshakeSeconds: 0.1 }));
    assertEquals((error as TlsError).code, "handshake_timeout");
  });

  test("a client that is told to stop stops, with the reason it was given", async () => {
    using mute = Deno.listen({ hostname, port: 0 });
    const controller = new AbortController();
    const dialling = assertRejects(
      () => dialTo(mute.addr.port, { signal: controller.signal }),
      Error,
      "interrupted",
    );
    using _accepted = await mute.accept();
    controller.abort(new Error("interrupted"));
    await dialling;
  });

  test("a server that hangs up or is not there is named as such", async () => {
    const closing = Deno.listen({ hostname, port: 0 });
    const hungUp = assertRejects(() => dialTo(closing.addr.port), TlsError);
    (await closing.accept()).close();
    assertEquals((await hungUp).code, "connection_lost");
    closing.close();
    const refused = await assertRejects(() => dialTo(closing.addr.port), VerbsealError);
    assertEquals([refused.code, refused.exitCode], ["connection_refused", 1]);
    const unknown = await assertRejects(() => dialTo(1, { hostname: "no.invalid" }), VerbsealError);
    assertEquals(unknown.code, "host_not_found");
  });

  test("an address that cannot be listened on is named with what to do", async () => {
    await using server = serve();
    const listenOn = (hostname: string, port: number) =>
      assertThrows(
        () => listen({ hostname, port, identity: certificates.server }, { backend }),
        VerbsealError,
      );
    const taken = listenOn(hostname, server.port);
    assertEquals(taken.code, "port_in_use");
    assert(taken.remedy.includes("another port"));
    assertEquals(listenOn("192.0.2.1", 0).code, "address_not_here");
    assertEquals(listenOn("no.invalid", 0).code, "address_not_here");
  });

  /** Greets everybody, until the server is disposed of. */
  async function greetAll(server: Server): Promise<void> {
    const greetings: Promise<void>[] = [];
    for (;;) {
      const incoming = await server.accept();
      if (!incoming) break;
      greetings.push(
        incoming.handshake().then(async (connection) => {
          await connection.write(encode("hi"));
          await connection.close();
        }),
      );
    }
    await Promise.all(greetings);
  }

  test("a certificate is replaced under load, and no connection fails", async () => {
    const fresh = await createCertificates({ hosts: [hostname], days: 1 });
    const both = { authorities: [certificates.ca.certificate, fresh.ca.certificate] };
    let greeting: Promise<void>;
    {
      await using server = serve();
      greeting = greetAll(server);
      let replaced = false;
      const client = async () => {
        for (let later = 0; later < 10; later += replaced ? 1 : 0) {
          const connection = await dialTo(server.port, { trust: both });
          assertEquals(await readText(connection, 2), "hi");
          await connection.close();
        }
      };
      const clients = Promise.all(Array.from({ length: 8 }, client));
      await (await dialTo(server.port)).close();
      await server.listener.update({ identity: fresh.server });
      const trusting = { trust: { authorities: [fresh.ca.certificate] } };
      await (await dialTo(server.port, trusting)).close();
      replaced = true;
      await clients;
    }
    await greeting;
  });

  test("what is no certificate leaves the old one in use", async () => {
    await using server = serve();
    const bad = {
      certificate: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
      key: "",
    };
    await assertRejects(() => server.listener.update({ identity: bad }));
    const [client, other] = await connected(server);
    await Promise.all([client.close(), other.close()]);
  });

  test("TLS older than 1.2 is refused", async () => {
    await using server = serve();
    const attempt = async (version: string) => {
      const client = new Deno.Command("openssl", {
        args: ["s_client", version, "-cipher", "DEFAULT@SECLEVEL=0", "-alpn", "verbseal/1"]
          .concat("-connect", `${hostname}:${server.port}`),
        stdin: "null",
      }).output();
      const incoming = await server.accept();
      const agreed = await incoming.handshake().then((other) => other.close()).then(() => true)
        .catch(() => false);
      await client;
      return agreed;
    };
    assertEquals([await attempt("-tls1_1"), await attempt("-tls1_2")], [false, true]);
  });

  /** Runs a script of this folder with its own environment; its output. */
  async function runScript(script: string, env: Record<string, string>, prefix = "exec") {
    const command = `${prefix} ${Deno.execPath()} run -A --no-check ${
      new URL(script, import.meta.url).pathname
    }`;
    const { stdout, stderr } = await new Deno.Command("sh", {
      args: ["-c", command],
      env: { ...env, BACKEND: backend },
    }).output();
    return new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  }

  test("authorities that the user has named replace those of the system", async () => {
    const folder = await Deno.makeTempDir();
    try {
      await Deno.writeTextFile(`${folder}/system.pem`, certificates.ca.certificate);
      const env = { SSL_CERT_FILE: `${folder}/system.pem` };
      await using server = serve();
      const script = async (named: string) => {
        const running = runScript("./dial_once.ts", {
          ...env,
          PORT: String(server.port),
          AUTHORITY: named,
        });
        const incoming = await server.accept();
        await incoming.handshake().then((other) => other.close()).catch(() => {});
        return (await running).trim();
      };
      const stranger = await createCertificates({ hosts: [], days: 1 });
      assertEquals(await script(""), "connected");
      assertEquals(await script(stranger.ca.certificate), "unknown_issuer");
      assertEquals(await script(certificates.ca.certificate), "connected");
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });

  test("a listener that ran out of file descriptors says so once, and goes on when there are some again", async () => {
    const output = await runScript("./exhaust_descriptors.ts", {}, "ulimit -n 60; exec");
    assert(output.includes("accepted again"), output);
    assertEquals(output.match(/could not be accepted/g)?.length, 1, output);
  });
}
