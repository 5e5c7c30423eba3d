/** A server in this process that clients shake hands with, and nothing more. */
import { configureSync, type LogRecord } from "@logtape/logtape";
import { assertEquals } from "@std/assert";
import { FrameType, makeFrame } from "../../lib/control/frame.ts";
import { PsnSource } from "../../lib/security/psn.ts";
import { Admission } from "../../lib/session/admission.ts";
import { defaultLimits, type Limits } from "../../lib/session/limits.ts";
import { Server } from "../../lib/session/server.ts";
import { type Backend, dial, listen } from "../../lib/tls/backend.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import { endpointText, type TlsConnection } from "../../lib/tls/connection.ts";
import type { DialOptions } from "../../lib/tls/options.ts";
import "./loaded_libssl.ts";

export const hostname = "127.0.0.1";
const certificates = await createCertificates({ hosts: [hostname], days: 1 });
const trusting = { authorities: [certificates.ca.certificate] };

export interface HandshakeSceneOptions {
  readonly limits?: Partial<Limits>;
  /** The server asks for certificates, and its good clients have them. */
  readonly clientCertificates?: boolean;
}

/** The server; its log is captured. */
export class HandshakeScene implements AsyncDisposable {
  readonly port: number;
  readonly #log: LogRecord[] = [];
  /** Addresses of clients that mean well. */
  readonly #good: string[] = [];
  #arrival = Promise.withResolvers<void>();
  readonly #stopping = new AbortController();
  readonly #running: Promise<void>;

  constructor(readonly backend: Backend, private readonly options: HandshakeSceneOptions = {}) {
    configureSync({
      reset: true,
      sinks: { memory: (record) => this.#take(record) },
      loggers: [
        { category: "verbseal", sinks: ["memory"], lowestLevel: "info" },
        { category: ["logtape", "meta"], sinks: [] },
      ],
    });
    const listener = listen({
      hostname,
      port: 0,
      identity: certificates.server,
      ...(options.clientCertificates
        ? { clientAuthentication: { trust: trusting, required: true } }
        : {}),
    }, { backend });
    this.port = listener.address.port;
    const all = { ...defaultLimits, ...options.limits };
    const server = new Server(listener, {
      limits: all,
      admission: new Admission(all),
      psns: new PsnSource(),
      services: [],
      transports: [],
      seal: "required",
      connectQueuePair: {},
      selectPort: unreached,
      openDataPath: unreached,
    });
    this.#running = server.run(this.#stopping.signal);
  }

  /**
   * A client after its TLS handshake.
   *
   * @param options what is not as it should be
   */
  async client(options: Partial<DialOptions> = {}): Promise<TlsConnection> {
    const client = await dial({
      hostname,
      port: this.port,
      trust: trusting,
      ...(this.options.clientCertificates ? { identity: certificates.client } : {}),
      handshakeSeconds: 5,
      ...options,
    }, this);
    this.#good.push(endpointText(client.localAddress));
    return client;
  }

  /** The server still answers this client: its wrong HELLO with an ERROR. */
  async assertServed(client: TlsConnection): Promise<void> {
    await client.write(makeFrame("HELLO", new TextEncoder().encode("{}")).bytes);
    const header = new Uint8Array(4);
    assertEquals(await client.read(header), 4);
    assertEquals(new DataView(header.buffer).getUint32(0), FrameType.ERROR);
    await client.close();
  }

  /** Fields of the one line about what was not one of this scene's clients, from now or before. */
  async ended(): Promise<Record<string, unknown>> {
    for (;;) {
      const [line, ...more] = this.#log.filter(({ properties: { peer } }) =>
        peer !== undefined && !this.#good.includes(String(peer))
      );
      assertEquals(more.length, 0, "one line a connection");
      if (line) return { level: line.level, ...line.properties };
      await this.#arrival.promise;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  #take(record: LogRecord): void {
    this.#log.push(record);
    this.#arrival.resolve();
    this.#arrival = Promise.withResolvers<void>();
  }
}

function unreached(): never {
  throw new Error("no client of this scene gets as far as that");
}
