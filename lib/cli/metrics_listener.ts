import { Buffer } from "node:buffer";
import { deadline } from "@std/async/deadline";
import { errorText } from "../errors.ts";
import { logger } from "../telemetry/log.ts";
import { AcceptRetries } from "../tls/accept_retries.ts";
import { closeQuietly } from "../tls/tcp.ts";

const log = logger("metrics");

/** Connections at once; who collects metrics needs one. */
const MAX_CONNECTIONS = 16;

/** Milliseconds that a connection has for its request and the answer. */
const CONNECTION_MILLISECONDS = 5000;

/** Milliseconds of them for the metrics. */
const COLLECTING_MILLISECONDS = 3000;

/** Milliseconds for which whoever asks gets what was collected last: workers are asked for it. */
const KEPT_MILLISECONDS = 1000;

/** Bytes of a request's line and headers. */
const MAX_REQUEST_BYTES = 8192;

const PATH = "/metrics";

interface Answer {
  readonly status: string;
  readonly type: string;
  readonly body: string;
  readonly headers?: string;
}

/**
 * Answers GET /metrics, one request a connection.
 *
 * By hand, though HTTP servers abound: neither Deno.serve nor its node:http limits connections, or
 * the time until a request has come (2.7), and whoever reaches the port could take all descriptors
 * that the process may have.
 */
export class MetricsListener implements AsyncDisposable {
  /** In the order in which they came. */
  readonly #connections = new Map<Deno.TcpConn, { answering: boolean }>();
  readonly #accepting: Promise<void>;
  #closed = false;
  /** What was collected last, or is being collected. */
  #collected: Promise<string> | undefined;
  #collectedAt = Infinity;

  /**
   * @param listener closed with this
   * @param contentType of what `metrics` gives
   */
  constructor(
    private readonly listener: Deno.TcpListener,
    private readonly contentType: string,
    private readonly metrics: () => Promise<string>,
  ) {
    this.#accepting = this.#accept();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    closeQuietly(this.listener);
    for (const connection of this.#connections.keys()) closeQuietly(connection);
    await this.#accepting;
  }

  async #accept(): Promise<void> {
    const retries = new AcceptRetries();
    while (!this.#closed) {
      try {
        const connection = await this.listener.accept();
        retries.succeeded();
        if (this.#hasRoom()) void this.#serve(connection);
        else closeQuietly(connection);
      } catch (error) {
        if (this.#closed || hasHungUp(error)) continue;
        await retries.failed(errorText(error));
      }
    }
  }

  /** Makes room, if need be: who has not asked anything for the longest has to go. */
  #hasRoom(): boolean {
    if (this.#connections.size < MAX_CONNECTIONS) return true;
    for (const [connection, { answering }] of this.#connections) {
      if (answering) continue;
      this.#connections.delete(connection);
      closeQuietly(connection);
      return true;
    }
    return false;
  }

  async #serve(connection: Deno.TcpConn): Promise<void> {
    const state = { answering: false };
    this.#connections.set(connection, state);
    const timer = setTimeout(() => closeQuietly(connection), CONNECTION_MILLISECONDS);
    try {
      const head = await readHead(connection);
      if (head === undefined) return;
      state.answering = true;
      await write(connection, head, await this.#answer(head));
    } catch (error) {
      // A peer that hangs up or takes too long is its own affair.
      log.debug("a request for metrics was not answered", { reason: errorText(error) });
    } finally {
      clearTimeout(timer);
      this.#connections.delete(connection);
      closeQuietly(connection);
    }
  }

  async #answer(head: string): Promise<Answer> {
    const [, method, target] = /^([A-Z]+) (\S+) HTTP\/1\.[01]\r\n/.exec(head) ?? [];
    if (method === undefined || target === undefined) return refusal("400 Bad Request");
    if (target.split("?", 1)[0] !== PATH) return refusal("404 Not Found");
    if (method !== "GET" && method !== "HEAD") {
      return { ...refusal("405 Method Not Allowed"), headers: "Allow: GET, HEAD\r\n" };
    }
    try {
      const body = await deadline(this.#collect(), COLLECTING_MILLISECONDS);
      return { status: "200 OK", type: this.contentType, body };
    } catch (error) {
      log.error("metrics cannot be collected", { reason: errorText(error) });
      return refusal("503 Service Unavailable");
    }
  }

  /** However many ask, metrics are collected once at a time, and kept for a moment. */
  #collect(): Promise<string> {
    const age = performance.now() - this.#collectedAt;
    if (this.#collected && age < KEPT_MILLISECONDS) return this.#collected;
    this.#collectedAt = Infinity;
    this.#collected = this.metrics();
    this.#collected.then(
      () => this.#collectedAt = performance.now(),
      () => this.#collectedAt = -Infinity,
    );
    return this.#collected;
  }
}

/** Whether the peer was gone before it was accepted. */
function hasHungUp(error: unknown): boolean {
  return error instanceof Deno.errors.NotConnected ||
    error instanceof Deno.errors.ConnectionAborted ||
    error instanceof Deno.errors.ConnectionReset;
}

function refusal(status: string): Answer {
  return {
    status,
    type: "text/plain; charset=utf-8",
    body: `${status}: metrics are at ${PATH}\n`,
  };
}

/** A request's line and headers; undefined where the peer sends none. */
async function readHead(connection: Deno.TcpConn): Promise<string | undefined> {
  const bytes = new Uint8Array(MAX_REQUEST_BYTES);
  for (let length = 0; length < bytes.length;) {
    const count = await connection.read(bytes.subarray(length));
    if (count === null) return undefined;
    length += count;
    const text = new TextDecoder("latin1").decode(bytes.subarray(0, length));
    if (text.includes("\r\n\r\n")) return text;
  }
  return undefined;
}

async function write(
  connection: Deno.TcpConn,
  request: string,
  { status, type, body, headers = "" }: Answer,
): Promise<void> {
  const bytes = new TextEncoder().encode(body);
  const head = new TextEncoder().encode(
    `HTTP/1.1 ${status}\r\nContent-Type: ${type}\r\nContent-Length: ${bytes.length}\r\n` +
      `${headers}Connection: close\r\n\r\n`,
  );
  const answer = request.startsWith("HEAD ") ? head : Buffer.concat([head, bytes]);
  for (let at = 0; at < answer.length;) at += await connection.write(answer.subarray(at));
}
