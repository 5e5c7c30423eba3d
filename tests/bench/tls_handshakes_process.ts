/**
 * `tls_handshakes_process.ts {"backend":…,"identity":…}`: shakes hands with whoever comes to a port on
 * loopback, which it prints, and waits until they leave; until the input ends.
 */
import process from "node:process";
import type { IncomingConnection } from "../../lib/tls/connection.ts";
import { listen } from "../../lib/tls/backend.ts";
import { LOOPBACK } from "./loopback.ts";
import { linesOf } from "./peer.ts";

const { backend, identity } = JSON.parse(Deno.args[0]!);
const listener = listen({ hostname: LOOPBACK, port: 0, identity, protocols: [] }, { backend });

async function serve(incoming: IncomingConnection): Promise<void> {
  try {
    const connection = await incoming.handshake();
    await connection.read(new Uint8Array(1));
  } catch {
    // s_time leaves without a goodbye.
  } finally {
    incoming.abort();
  }
}

async function serveAll(): Promise<void> {
  for await (const incoming of listener) void serve(incoming);
}

void serveAll();
console.log(listener.address.port);
const nextLine = linesOf(process.stdin);
while (await nextLine() !== undefined);
Deno.exit();
