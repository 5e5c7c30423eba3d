/** What many idle sessions on the message port cost, and how soon they are there. */
import { once } from "node:events";
import type { Backend } from "../../lib/tls/backend.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import { HEADER_BYTES, message } from "../../lib/services/plain_messages.ts";
import { type Figure, type Subject, summarize } from "./figure.ts";
import { LOOPBACK } from "./loopback.ts";
import { linesOf, startProcess } from "./peer.ts";

const sessions = 5000;

/** Handshakes under way at once. */
const concurrency = 32;

const size = 64;
const request = message("ECHO", new Uint8Array(size));

const settings = `${sessions} sessions over loopback, P-256, TLS 1.3, each asked for one echo of ` +
  `${size} bytes; bytes: resident memory of the server's process a session, without garbage; s: ` +
  `until all are there, ${concurrency} at once, from a client on Deno's TLS; one run`;

/** Memory a session, and the time until all are there, by each library that speaks TLS. */
export async function* tlsSessions(): AsyncGenerator<Figure> {
  const { ca, server: identity } = await createCertificates({ hosts: [LOOPBACK], days: 1 });
  for (const backend of ["deno", "openssl"] as const) {
    const subject = { bench: "tls.sessions", size, backend, sessions, peer: null, settings };
    const { bytes, seconds } = await measure(backend, identity, ca.certificate);
    yield figure({ ...subject, unit: "bytes" }, bytes);
    yield figure({ ...subject, unit: "s" }, seconds);
  }
}

function figure(subject: Subject, value: number): Figure {
  console.error(`${subject.bench} ${subject.backend}: ${value.toFixed(2)} ${subject.unit}`);
  return summarize(subject, [value]);
}

async function measure(backend: Backend, identity: unknown, authority: string) {
  const server = startProcess("./tls_sessions_process.ts", JSON.stringify({ backend, identity }));
  const nextLine = linesOf(server.stdout);
  const port = Number(await nextLine());
  const occupied = async () => {
    server.stdin.write("\n");
    return Number(await nextLine());
  };
  const open: Deno.TlsConn[] = [];
  try {
    // The first few load what stays for the life of the process.
    await openSessions(open, concurrency, port, authority);
    const before = await occupied();
    const started = performance.now();
    await openSessions(open, sessions, port, authority);
    const seconds = (performance.now() - started) / 1000;
    return { seconds, bytes: (await occupied() - before) / sessions };
  } finally {
    for (const session of open) session.close();
    server.stdin.end();
    if (server.exitCode === null) await once(server, "exit");
  }
}

/** Opens `count` more. */
async function openSessions(
  open: Deno.TlsConn[],
  count: number,
  port: number,
  authority: string,
): Promise<void> {
  let left = count;
  const opener = async () => {
    while (left-- > 0) open.push(await openSession(port, authority));
  };
  await Promise.all(Array.from({ length: concurrency }, opener));
}

async function openSession(port: number, authority: string): Promise<Deno.TlsConn> {
  const session = await Deno.connectTls({ hostname: LOOPBACK, port, caCerts: [authority] });
  await session.write(request);
  const answer = new Uint8Array(HEADER_BYTES + size);
  for (let at = 0; at < answer.length;) {
    const count = await session.read(answer.subarray(at));
    if (count === null) throw new Error("the server has ended a session");
    at += count;
  }
  return session;
}
