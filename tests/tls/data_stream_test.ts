import { assert, assertEquals, assertRejects } from "@std/assert";
import { idle } from "../../ffi/epoll.ts";
import { C, check, libc } from "../../ffi/libc.ts";
import { cString } from "../../ffi/layout.ts";
import { TlsError } from "../../lib/errors.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import { dial, listen } from "../../lib/tls/backend.ts";
import type { IncomingConnection, TlsListener } from "../../lib/tls/connection.ts";
import { OpensslConnection } from "../../lib/tls/openssl_connection.ts";
import "./loaded_libssl.ts";
import { sClient } from "./peers.ts";

const certificates = await createCertificates({ hosts: ["127.0.0.1"], days: 1 });
const trust = { authorities: [certificates.ca.certificate] };
const protocol = "verbseal-data/1";
const serving = {
  hostname: "127.0.0.1",
  port: 0,
  identity: certificates.server,
  protocols: ["verbseal/1", protocol],
  kernelProtocol: protocol,
};

/** Both ends of a connection for data. */
async function streams(): Promise<[OpensslConnection, OpensslConnection]> {
  const listener = listen(serving);
  const accepting = listener[Symbol.asyncIterator]();
  const dialled = dial({
    ...listener.address,
    trust,
    protocol,
    kernel: "preferred",
    handshakeSeconds: 5,
  });
  const { value: incoming } = await accepting.next();
  const [near, far] = await Promise.all([incoming.handshake(), dialled]);
  await closed(listener, accepting);
  assert(near instanceof OpensslConnection && far instanceof OpensslConnection);
  return [near, far];
}

async function readAll(stream: OpensslConnection): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  const buffer = new Uint8Array(100_000);
  for (let count = await stream.read(buffer); count !== null; count = await stream.read(buffer)) {
    parts.push(buffer.slice(0, count));
  }
  return new Uint8Array(await new Blob(parts as Uint8Array<ArrayBuffer>[]).arrayBuffer());
}

/** Keys of a connection that may carry terabytes are to be in nobody's hands but the two sides'. */
for (const version of ["1_2", "1_3"]) {
  Deno.test(`a connection for data gets no ticket, and others do (TLS ${version})`, async () => {
    for (const alpn of serving.protocols) {
      const listener = listen(serving);
      const accepting = listener[Symbol.asyncIterator]();
      const asking = sClient(listener.address.port, [`-tls${version}`, "-alpn", alpn]);
      const { value: incoming } = await accepting.next();
      const connection = await incoming.handshake();
      // What is read after the handshake brings the ticket in TLS 1.3.
      await connection.write(new Uint8Array(1));
      await connection.close();
      const [said] = await Promise.all([asking, closed(listener, accepting)]);
      assertEquals(said.includes("TLS session ticket:"), alpn !== protocol, said);
    }
    await idle();
  });
}

async function closed(
  listener: TlsListener,
  accepting: AsyncIterator<IncomingConnection>,
): Promise<void> {
  const ended = accepting.next();
  listener.close();
  await ended;
}

/** A file of random bytes. */
class RandomFile implements Disposable {
  readonly bytes = crypto.getRandomValues(new Uint8Array(65536));
  readonly descriptor: number;
  readonly #path = Deno.makeTempFileSync();

  constructor() {
    Deno.writeFileSync(this.#path, this.bytes);
    const path = cString(this.#path);
    this.descriptor = check("openat", libc().openat(C.AT_FDCWD, path, C.O_RDONLY, 0));
  }

  [Symbol.dispose](): void {
    libc().close(this.descriptor);
    Deno.removeSync(this.#path);
  }
}

Deno.test("a connection for data has AES-256-GCM, and says what of it the kernel seals", async () => {
  const [near, far] = await streams();
  assertEquals(near.handshake.cipher, far.handshake.cipher);
  assert(/AES_?256.GCM/.test(near.handshake.cipher), near.handshake.cipher);
  assertEquals(near.alpn, protocol);
  assertEquals(typeof near.kernel.send, "boolean");
  await Promise.all([near.close(), far.close()]);
  assertEquals(near.kernel, { send: false, receive: false });
  await idle();
});

Deno.test("part of a file arrives after what was written before", async () => {
  using file = new RandomFile();
  const [near, far] = await streams();
  const received = readAll(far);
  await near.write(Uint8Array.of(1, 2, 3));
  await near.sendFile(file.descriptor, 1000, 60_000);
  await near.close();
  assertEquals(await received, Uint8Array.of(1, 2, 3, ...file.bytes.subarray(1000, 61_000)));
  await far.close();
  await idle();
});

Deno.test("a file that is shorter than was said ends with an error", async () => {
  using file = new RandomFile();
  const [near, far] = await streams();
  const received = readAll(far).catch(() => {});
  await assertRejects(() => near.sendFile(file.descriptor, 0, 65_537), TlsError, "65536");
  near.abort();
  await received;
  far.abort();
  await idle();
});

Deno.test("a connection that was detached goes on where it is attached, and there alone", async () => {
  const [near, far] = await streams();
  await near.write(Uint8Array.of(1));
  const moved = OpensslConnection.attach(structuredClone(near.detach()));
  await assertRejects(() => near.write(Uint8Array.of(2)), TlsError, "is closed");
  await near.close();
  await moved.write(Uint8Array.of(3));
  const received = readAll(far);
  await moved.close();
  assertEquals(await received, Uint8Array.of(1, 3));
  assertEquals(moved.peerAddress, far.localAddress);
  await far.close();
  await idle();
});
