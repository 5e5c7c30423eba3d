import { TlsError } from "../errors.ts";
import type { TlsConnection } from "./connection.ts";
import { OpensslConnection } from "./openssl_connection.ts";

/** The application protocol of data connections (ALPN, RFC 7301). */
export const dataProtocol = "verbseal-data/1";

/** A TLS connection that carries much data, and that another thread can go on with. */
export type DataConnection = OpensslConnection;

/**
 * The connection as one for data.
 *
 * @throws TlsError when it is not libssl's: no other library lets the kernel seal
 */
export function dataConnection(connection: TlsConnection): DataConnection {
  if (connection instanceof OpensslConnection) return connection;
  throw new TlsError("data_connection", "a data connection needs libssl");
}
