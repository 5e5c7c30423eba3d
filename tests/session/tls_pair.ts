import { libc } from "../../ffi/libc.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import type { TlsConnection } from "../../lib/tls/connection.ts";
import { dial, listen } from "../../lib/tls/backend.ts";

// Deno's check for leaks wants libraries loaded before the first test.
libc();

const hostname = "127.0.0.1";
const certificates = await createCertificates({ hosts: [hostname], days: 1 });

/** Two ends of a TLS connection over loopback; closed at once when disposed. */
export interface TlsPair extends Disposable {
  readonly near: TlsConnection;
  readonly far: TlsConnection;
}

export async function tlsPair(): Promise<TlsPair> {
  const listener = listen({ hostname, port: 0, identity: certificates.server });
  const dialled = dial({
    ...listener.address,
    trust: { authorities: [certificates.ca.certificate] },
    handshakeSeconds: 5,
  });
  const accepting = listener[Symbol.asyncIterator]();
  const { value: incoming } = await accepting.next();
  const [near, far] = await Promise.all([incoming.handshake(), dialled]);
  const ended = accepting.next();
  listener.close();
  await ended;
  return {
    near,
    far,
    [Symbol.dispose]() {
      near.abort();
      far.abort();
    },
  };
}
