import ipaddr from "ipaddr.js";
import { lookup } from "node:dns/promises";
import { C, sockaddrIn, sockaddrIn6 } from "../../ffi/libc.ts";
import { errorText, TlsError, VerbsealError } from "../errors.ts";
import { type Endpoint, endpointText } from "./connection.ts";

/** Why there is no listening socket, with what to do. */
export function listenFailure(endpoint: Endpoint, error: unknown): VerbsealError {
  const address = endpointText(endpoint);
  const options = { cause: error };
  if (error instanceof Deno.errors.AddrInUse) {
    return new VerbsealError(
      "port_in_use",
      `Another program listens on ${address} already`,
      "Stop it, or choose another port",
      options,
    );
  }
  if (error instanceof Deno.errors.PermissionDenied) {
    return new VerbsealError(
      "port_forbidden",
      `This user may not listen on ${address}`,
      "Choose a port above 1023",
      options,
    );
  }
  if (error instanceof Deno.errors.AddrNotAvailable || /lookup address/.test(errorText(error))) {
    return new VerbsealError(
      "address_not_here",
      `${endpoint.hostname} is not an address of this machine`,
      "Choose one that ip address shows, or 0.0.0.0 for all",
      options,
    );
  }
  return new TlsError(
    "listen_failed",
    `Listening on ${address} failed: ${errorText(error)}`,
    "",
    options,
  );
}

/**
 * Connects to a host, trying its addresses in turn: Deno.connect itself tries the first only.
 *
 * @throws VerbsealError when it is not known or cannot be reached, the signal's reason when aborted
 */
export async function connect(options: Endpoint, signal: AbortSignal): Promise<Deno.TcpConn> {
  let failure: unknown;
  for (const hostname of await addressesOf(options, signal)) {
    try {
      const tcp = await Deno.connect({ hostname, port: options.port, signal });
      tcp.setNoDelay(true);
      tcp.setKeepAlive(true);
      return tcp;
    } catch (error) {
      signal.throwIfAborted();
      failure = error;
    }
  }
  const [code, what] = failure instanceof Deno.errors.ConnectionRefused
    ? ["connection_refused", "refuses the connection"]
    : ["connection_failed", `cannot be reached: ${errorText(failure)}`];
  throw connectFailure(options, code, what, failure);
}

async function addressesOf({ hostname }: Endpoint, signal: AbortSignal): Promise<string[]> {
  const aborted = new Promise<never>((_resolve, reject) =>
    signal.addEventListener("abort", () => reject(signal.reason), { once: true })
  );
  try {
    const found = await Promise.race([lookup(hostname, { all: true }), aborted]);
    return found.map(({ address }) => address);
  } catch (error) {
    signal.throwIfAborted();
    throw new VerbsealError(
      "host_not_found",
      `The host ${hostname} is not known`,
      "Check its name, or give its IP address",
      { cause: error },
    );
  }
}

/** Why a host could not be connected to, with what to do. */
export function connectFailure(peer: Endpoint, code: string, what: string, cause: unknown) {
  return new VerbsealError(
    code,
    `${endpointText(peer)} ${what}`,
    "Check host, port and firewall, and that the server runs",
    { cause },
  );
}

/** Closes what may be closed already: Deno throws then. */
export function closeQuietly(closer: { close(): void }): void {
  try {
    closer.close();
  } catch (error) {
    if (!(error instanceof Deno.errors.BadResource)) throw error;
  }
}

/** A socket that listens on `::` shows IPv4 peers as `::ffff:10.0.0.1`; limits and GIDs do not. */
export function endpointOf({ hostname, port }: Deno.NetAddr): Endpoint {
  return { hostname: hostname.replace(/^::ffff:(?=[\d.]+$)/, ""), port };
}

/** What the kernel says of a socket's end: a struct sockaddr_in or sockaddr_in6. */
export function endpointOfSocket(address: Uint8Array<ArrayBuffer>): Endpoint {
  const ipv6 = sockaddrIn.over(address).get("sin_family") === C.AF_INET6;
  const bytes = ipv6
    ? sockaddrIn6.over(address).get("sin6_addr")
    : sockaddrIn.over(address).get("sin_addr");
  const port = new DataView(address.buffer).getUint16(sockaddrIn.offset("sin_port"));
  if (!ipv6) return { hostname: bytes.join("."), port };
  const hostname = ipaddr.fromByteArray([...bytes]).toString();
  return endpointOf({ transport: "tcp", hostname, port });
}
