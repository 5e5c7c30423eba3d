import { idle } from "../../ffi/epoll.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import type { TlsConnection } from "../../lib/tls/connection.ts";
import { dial, listen } from "../../lib/tls/backend.ts";
import {
  type DataConnection,
  dataConnection,
  dataProtocol,
} from "../../lib/tls/data_connection.ts";
import type { DialOptions, ListenOptions } from "../../lib/tls/options.ts";
import { tlsSettings } from "../tls_backend.ts";
import "../tls/loaded_libssl.ts";

const hostname = "127.0.0.1";

/** Seconds for a handshake: the first one loads libssl, and the guest's processors are emulated. */
const PATIENCE = 60;
const certificates = await createCertificates({ hosts: [hostname], days: 1 });
const trust = { authorities: [certificates.ca.certificate] };

/** Two ends of a TLS connection over loopback; closed at once when disposed, and waited for by nobody then. */
export interface TlsPair<Connection = TlsConnection> extends AsyncDisposable {
  readonly near: Connection;
  readonly far: Connection;
}

/** Two ends of a data connection, which the kernel seals if it can. */
export async function dataPair(): Promise<TlsPair<DataConnection>> {
  const pair = await tlsPair({ protocols: [dataProtocol], kernelProtocol: dataProtocol }, {
    protocol: dataProtocol,
    kernel: "preferred",
  });
  return { ...pair, near: dataConnection(pair.near), far: dataConnection(pair.far) };
}

export async function tlsPair(
  listening: Partial<ListenOptions> = {},
  dialling: Partial<DialOptions> = {},
): Promise<TlsPair> {
  const listener = listen({
    hostname,
    port: 0,
    identity: certificates.server,
    settings: tlsSettings,
    ...listening,
  });
  const dialled = dial({
    settings: tlsSettings,
    ...dialling,
    ...listener.address,
    trust,
    handshakeSeconds: PATIENCE,
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
    async [Symbol.asyncDispose]() {
      near.abort();
      far.abort();
      await idle();
    },
  };
}
