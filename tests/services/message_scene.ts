/** A message server in this process, and plain TLS clients of it. */
import { configureSync, type LogRecord } from "@logtape/logtape";
import { assertEquals } from "@std/assert";
import { idle } from "../../ffi/epoll.ts";
import { type Policy, unrestricted } from "../../lib/security/policy.ts";
import { MessageServer } from "../../lib/services/message_server.ts";
import type { Question } from "../../lib/services/messages.ts";
import { HEADER_BYTES, message, RequestType } from "../../lib/services/plain_messages.ts";
import { Admission } from "../../lib/session/admission.ts";
import { defaultLimits, type Limits } from "../../lib/session/limits.ts";
import { type Backend, listen } from "../../lib/tls/backend.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import { endpointText } from "../../lib/tls/connection.ts";
import type { CheckRevocation } from "../../lib/tls/revocation.ts";
import "../tls/loaded_libssl.ts";

const hostname = "127.0.0.1";
const certificates = await createCertificates({ hosts: [hostname], days: 1 });

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** A test of the server with each library that speaks TLS. */
export function messageTest(
  name: string,
  test: (scene: MessageScene) => Promise<void>,
  limits?: Partial<Limits>,
): void {
  for (const backend of ["deno", "openssl"] as const) {
    Deno.test(`${name} (${backend})`, async () => {
      {
        await using scene = new MessageScene(backend, limits);
        await test(scene);
      }
      await idle();
    });
  }
}

export class MessageScene implements AsyncDisposable {
  readonly port: number;
  /** Lets all in, until a test says otherwise. */
  policy: Policy = { rules: [{ name: "all", matches: () => true, allows: unrestricted }] };
  /** Finds nothing, until a test says otherwise. */
  checkRevocation: CheckRevocation = () => Promise.resolve();
  readonly #log: LogRecord[] = [];
  #arrival = Promise.withResolvers<void>();
  readonly #stopping = new AbortController();
  readonly #running: Promise<void>;
  readonly #clients: PlainClient[] = [];

  constructor(backend: Backend, limits: Partial<Limits> = {}) {
    configureSync({
      reset: true,
      sinks: { memory: (record) => this.#take(record) },
      loggers: [
        { category: "verbseal", sinks: ["memory"], lowestLevel: "info" },
        { category: ["logtape", "meta"], sinks: [] },
      ],
    });
    const identity = certificates.server;
    const listener = listen({ hostname, port: 0, identity, protocols: [] }, { backend });
    this.port = listener.address.port;
    const all = { ...defaultLimits, ...limits };
    const server = new MessageServer(listener, {
      limits: all,
      admission: new Admission(all),
      policy: () => this.policy,
      checkRevocation: (connection, signal) => this.checkRevocation(connection, signal),
    });
    this.#running = server.run(this.#stopping.signal);
  }

  /** A client after its handshake. */
  async client(): Promise<PlainClient> {
    const tls = await Deno.connectTls({
      hostname,
      port: this.port,
      caCerts: [certificates.ca.certificate],
    });
    const client = new PlainClient(tls);
    this.#clients.push(client);
    await tls.handshake();
    return client;
  }

  /** Plain TCP. */
  tcp(): Promise<Deno.TcpConn> {
    return Deno.connect({ hostname, port: this.port });
  }

  /** Fields of the one line about the end of a client, from now or before. */
  async ended(client: { localAddr: Deno.NetAddr }): Promise<Record<string, unknown>> {
    const peer = endpointText(client.localAddr);
    for (;;) {
      const [line, ...more] = this.#log.filter(({ properties }) => properties.peer === peer);
      assertEquals(more.length, 0, "one line a client");
      if (line) return { level: line.level, ...line.properties };
      await this.#arrival.promise;
    }
  }

  /** Stops the server; resolves when it has ended. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) client.close();
    await this.stop();
  }

  #take(record: LogRecord): void {
    this.#log.push(record);
    this.#arrival.resolve();
    this.#arrival = Promise.withResolvers<void>();
  }
}

export class PlainClient {
  #closed = false;

  constructor(readonly tls: Deno.TlsConn) {}

  get localAddr(): Deno.NetAddr {
    return this.tls.localAddr;
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) at += await this.tls.write(bytes.subarray(at));
  }

  send(question: Question, text: string): Promise<void> {
    return this.write(message(question, encoder.encode(text)));
  }

  async ask(question: Question, text: string): Promise<string> {
    await this.send(question, text);
    return await this.answer(question);
  }

  /** The next answer, which must bear the type of this question. */
  async answer(question: Question): Promise<string> {
    const header = new DataView((await this.read(HEADER_BYTES)).buffer);
    assertEquals(header.getUint32(0), RequestType[question]);
    return decoder.decode(await this.read(header.getUint32(4)));
  }

  /** Whether the server has said goodbye, after all that it had to say; says the same then. */
  async atEnd(): Promise<boolean> {
    const ended = await this.tls.read(new Uint8Array(1)) === null;
    if (ended) this.close();
    return ended;
  }

  close(): void {
    if (!this.#closed) this.tls.close();
    this.#closed = true;
  }

  async read(length: number): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length;) {
      const count = await this.tls.read(bytes.subarray(at));
      if (count === null) throw new Error(`the stream ended after ${at} of ${length} bytes`);
      at += count;
    }
    return bytes;
  }
}
