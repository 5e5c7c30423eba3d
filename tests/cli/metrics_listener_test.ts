import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { delay } from "@std/async/delay";
import { C, check, libc, sockaddrIn } from "../../ffi/libc.ts";
import { MetricsListener } from "../../lib/cli/metrics_listener.ts";

const TYPE = "text/plain; version=0.0.4; charset=utf-8";

/** As many as are served at once. */
const CONNECTIONS = 16;

/** Milliseconds within which a connection is not given up yet. */
const GIVEN_UP = 4000;

/** Of Linux: asm-generic/socket.h, bits/socket_type.h. */
const SO_LINGER = 13;
const SOCK_STREAM = 1;

/** Connects forty times and has each connection reset, before anybody in this process can accept it. */
function resetConnections(port: number): void {
  const { socket, connect, setsockopt, close } = libc();
  const address = new Uint8Array(sockaddrIn.size);
  sockaddrIn.over(address).set("sin_family", C.AF_INET)
    .set("sin_port", new Uint8Array([port >> 8, port & 0xff]))
    .set("sin_addr", new Uint8Array([127, 0, 0, 1]));
  const atOnce = Int32Array.of(1, 0);
  for (let count = 0; count < 40; count++) {
    const descriptor = check("socket", socket(C.AF_INET, SOCK_STREAM, 0));
    check("connect", connect(descriptor, address, address.length));
    check("setsockopt", setsockopt(descriptor, C.SOL_SOCKET, SO_LINGER, atOnce, 8));
    check("close", close(descriptor));
  }
}

/** Serves these metrics on a port that the system chooses. */
function serving(metrics: () => Promise<string>): AsyncDisposable & { readonly port: number } {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const serving = new MetricsListener(listener, TYPE, metrics);
  return {
    port: listener.addr.port,
    [Symbol.asyncDispose]: () => serving[Symbol.asyncDispose](),
  };
}

function connect(port: number): Promise<Deno.TcpConn> {
  return Deno.connect({ hostname: "127.0.0.1", port });
}

/** All that the other side sends until it ends the connection. */
async function rest(connection: Deno.TcpConn): Promise<string> {
  return await new Response(connection.readable).text();
}

async function ask(port: number, request: string): Promise<string> {
  const connection = await connect(port);
  await connection.write(new TextEncoder().encode(request));
  return await rest(connection);
}

// Deno's check for leaks wants the library there before the first test.
libc();

const metric = () => Promise.resolve("verbseal_sessions 1\n");

Deno.test("a GET of /metrics has them", async () => {
  await using listener = serving(metric);
  const response = await fetch(`http://127.0.0.1:${listener.port}/metrics?at=once`);
  assertEquals(response.headers.get("content-type"), TYPE);
  assertEquals(await response.text(), "verbseal_sessions 1\n");
});

Deno.test("a HEAD has no body", async () => {
  await using listener = serving(metric);
  const answer = await ask(listener.port, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
  assertMatch(answer, /^HTTP\/1\.1 200 OK\r\n(.*\r\n)*Content-Length: 20\r\n(.*\r\n)*\r\n$/);
});

Deno.test("a request that comes in parts is answered", async () => {
  await using listener = serving(metric);
  const connection = await connect(listener.port);
  for (const part of ["GET /met", "rics HTTP/1.1\r\n", "\r", "\n"]) {
    await connection.write(new TextEncoder().encode(part));
  }
  assertMatch(await rest(connection), /^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\nverbseal_sessions 1\n$/);
});

for (
  const [request, status] of [
    ["GET / HTTP/1.1", "404 Not Found"],
    ["GET /metrics/../secret HTTP/1.1", "404 Not Found"],
    ["POST /metrics HTTP/1.1", "405 Method Not Allowed"],
    ["GET /metrics", "400 Bad Request"],
    ["\x16\x03\x01\x02 HTTP/1.1", "400 Bad Request"],
  ] as const
) {
  Deno.test(`${JSON.stringify(request)} is answered by ${status}`, async () => {
    await using listener = serving(metric);
    const answer = await ask(listener.port, `${request}\r\n\r\n`);
    assertStringIncludes(answer, `HTTP/1.1 ${status}\r\n`);
    assertStringIncludes(answer, "metrics are at /metrics\n");
    assert(!answer.includes("verbseal_"));
  });
}

Deno.test("metrics that cannot be collected are an answer too", async () => {
  await using listener = serving(() => Promise.reject(new Error("no")));
  const answer = await ask(listener.port, "GET /metrics HTTP/1.1\r\n\r\n");
  assertStringIncludes(answer, "HTTP/1.1 503 Service Unavailable\r\n");
});

Deno.test("a request that does not end is not answered", async () => {
  await using listener = serving(metric);
  // Bytes that nobody reads any more reset the connection.
  const request = `GET /metrics HTTP/1.1\r\nx: ${"x".repeat(10_000)}`;
  assertEquals(await ask(listener.port, request).catch(() => ""), "");
});

Deno.test("who sends no request is given up, and others are served meanwhile", async () => {
  await using listener = serving(metric);
  const silent = await Promise.all(
    Array.from({ length: CONNECTIONS - 1 }, () => connect(listener.port)),
  );
  const served = await fetch(`http://127.0.0.1:${listener.port}/metrics`);
  assertEquals(served.status, 200);
  await served.body?.cancel();
  assertEquals(await Promise.all(silent.map(rest)), silent.map(() => ""));
});

Deno.test("who has not asked for the longest makes room for the next one", async () => {
  await using listener = serving(metric);
  const silent = await Promise.all(
    Array.from({ length: 3 * CONNECTIONS }, () => connect(listener.port)),
  );
  const started = performance.now();
  const response = await fetch(`http://127.0.0.1:${listener.port}/metrics`);
  assertEquals(await response.text(), "verbseal_sessions 1\n");
  assert(performance.now() - started < GIVEN_UP);
  for (const connection of silent) connection.close();
});

Deno.test("connections that are reset before they are accepted keep nobody waiting", async () => {
  await using listener = serving(metric);
  resetConnections(listener.port);
  const started = performance.now();
  const response = await fetch(`http://127.0.0.1:${listener.port}/metrics`);
  assertEquals(await response.text(), "verbseal_sessions 1\n");
  assert(performance.now() - started < 1000);
});

Deno.test("metrics that take too long are an answer too", async () => {
  await using listener = serving(() => new Promise(() => {}));
  const answer = await ask(listener.port, "GET /metrics HTTP/1.1\r\n\r\n");
  assertStringIncludes(answer, "HTTP/1.1 503 Service Unavailable\r\n");
});

Deno.test("however many ask at once, metrics are collected once, and kept for a moment", async () => {
  let collected = 0;
  await using listener = serving(() => Promise.resolve(`collected ${++collected}\n`));
  const answers = await Promise.all(
    Array.from({ length: 8 }, () => ask(listener.port, "GET /metrics HTTP/1.1\r\n\r\n")),
  );
  assert(answers.every((answer) => answer.endsWith("collected 1\n")), answers.join());
  await delay(1100);
  assertMatch(await ask(listener.port, "GET /metrics HTTP/1.1\r\n\r\n"), /collected 2\n$/);
});

Deno.test("after metrics that could not be collected they are tried again", async () => {
  let collected = 0;
  await using listener = serving(() =>
    ++collected === 1 ? Promise.reject(new Error("no")) : Promise.resolve("now\n")
  );
  assertMatch(await ask(listener.port, "GET /metrics HTTP/1.1\r\n\r\n"), /503/);
  assertMatch(await ask(listener.port, "GET /metrics HTTP/1.1\r\n\r\n"), /now\n$/);
});
