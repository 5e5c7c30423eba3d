/**
 * `tls_sessions_process.ts {"backend":…,"identity":…}`: a message server on loopback that lets
 * everybody in and nobody go. It prints its port, and for each line that comes the bytes that this
 * process occupies, until the input ends.
 */
import process from "node:process";
import { MessageServer } from "../../lib/services/message_server.ts";
import { Admission } from "../../lib/session/admission.ts";
import { defaultLimits } from "../../lib/session/limits.ts";
import { listen } from "../../lib/tls/backend.ts";
import { LOOPBACK } from "./loopback.ts";
import { linesOf } from "./peer.ts";
import { residentBytes } from "./resident_bytes.ts";

const limits = {
  ...defaultLimits,
  connectionsPerSecond: Infinity,
  handshakes: Infinity,
  messageClients: Infinity,
  messageClientsPerAddress: Infinity,
  idleSeconds: 3600,
};
const { backend, identity } = JSON.parse(Deno.args[0]!);
const listener = listen({ hostname: LOOPBACK, port: 0, identity, protocols: [] }, { backend });
void new MessageServer(listener, { limits, admission: new Admission(limits) })
  .run(new AbortController().signal);
console.log(listener.address.port);
const nextLine = linesOf(process.stdin);
while (await nextLine() !== undefined) console.log(residentBytes());
// Sessions end with the process.
Deno.exit();
