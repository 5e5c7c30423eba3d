import type { TlsConnection, TlsListener } from "./connection.ts";
import * as deno from "./deno.ts";
import type { DialOptions, ListenOptions } from "./options.ts";

/** Who speaks TLS: rustls, through Deno. */
export type Backend = "deno";

/** Listens for TLS connections by the backend that can do what is asked for. */
export function listen(options: ListenOptions): TlsListener {
  return deno.listen(options);
}

/** Connects to a server and checks its certificate by the backend that can do what is asked for. */
export function dial(options: DialOptions): Promise<TlsConnection> {
  return deno.dial(options);
}
