/** A server in this process that takes its clients for whom a test says, without a TLS library that tells. */
import { configureSync, type LogRecord } from "@logtape/logtape";
import type { Policy } from "../../lib/security/policy.ts";
import { parsePolicy } from "../../lib/security/policy_file.ts";
import { PsnSource } from "../../lib/security/psn.ts";
import { Client } from "../../lib/services/client.ts";
import { portChooser } from "../../lib/services/port_choice.ts";
import {
  type ServerServices,
  serviceNames,
  startWorkers,
} from "../../lib/services/server_services.ts";
import { Admission } from "../../lib/session/admission.ts";
import { connectByTls } from "../../lib/session/establish.ts";
import { defaultLimits } from "../../lib/session/limits.ts";
import { Server } from "../../lib/session/server.ts";
import { listen } from "../../lib/tls/backend.ts";
import { createCertificates } from "../../lib/tls/certificates.ts";
import type { IncomingConnection, TlsConnection, TlsListener } from "../../lib/tls/connection.ts";
import { provider } from "../provider.ts";

const certificates = await createCertificates({ hosts: [provider.address], days: 1 });

/** Clients that meet it have shown the certificate that {@linkcode shown} is at that time. */
export class IdentityScene implements AsyncDisposable {
  shown: Uint8Array | undefined;
  /** The policy in force, if there was one when it was created. */
  policy: Policy | undefined;
  /** What the server asks about clients' certificates; nothing unless a test says. */
  checkRevocation: (connection: TlsConnection) => Promise<void> = () => Promise.resolve();
  readonly log: LogRecord[] = [];
  #arrival = Promise.withResolvers<void>();
  readonly #listener: TlsListener;
  readonly #stack: AsyncDisposableStack;

  private constructor(
    readonly root: string,
    policy: Policy | undefined,
    building: AsyncDisposableStack,
  ) {
    this.policy = policy;
    configureSync({
      reset: true,
      sinks: { memory: (record) => this.#take(record) },
      loggers: [
        { category: "verbseal", sinks: ["memory"], lowestLevel: "info" },
        { category: ["logtape", "meta"], sinks: [] },
      ],
    });
    const services: ServerServices = {
      root,
      lentBytes: defaultLimits.lentBytes,
      log: { level: "error", format: "text" },
    };
    const workers = building.use(startWorkers(services, 1));
    this.#listener = listen({ hostname: provider.address, port: 0, identity: certificates.server });
    const server = new Server(presenting(this.#listener, () => this.shown), {
      limits: defaultLimits,
      admission: new Admission(defaultLimits),
      psns: new PsnSource(),
      services: serviceNames(services),
      ...(policy ? { policy: () => this.policy! } : {}),
      checkRevocation: (connection) => this.checkRevocation(connection),
      transports: ["rdma"],
      connectQueuePair: { tls: connectByTls },
      selectPort: portChooser(provider.device),
      openDataPath: (path) => workers.openDataPath(path),
    });
    const stopping = new AbortController();
    const running = server.run(stopping.signal);
    building.defer(async () => {
      stopping.abort();
      await running;
    });
    this.#stack = building.move();
  }

  /** @param policy YAML */
  static async create(policy?: string): Promise<IdentityScene> {
    await using building = new AsyncDisposableStack();
    const root = await Deno.makeTempDir({ prefix: "verbseal-" });
    building.defer(() => Deno.remove(root, { recursive: true }));
    const rules = policy === undefined ? undefined : await parsePolicy(policy, "policy.yaml");
    return new IdentityScene(root, rules, building);
  }

  /** A client whom the server takes for the holder of `certificate`. */
  async client(certificate: Uint8Array | undefined): Promise<Client> {
    this.shown = certificate;
    const client = await Client.open({
      server: this.#listener.address,
      trust: { authorities: [certificates.ca.certificate] },
      device: provider.device,
      connect: "tls",
      cmPort: 4791,
      handshakeSeconds: 10,
      agent: "test",
    });
    return this.#stack.use(client);
  }

  /** Fields of the log line of this message number `index`, from now or before. */
  async logged(message: string, index = 0): Promise<Record<string, unknown>> {
    for (;;) {
      const line = this.log.filter(({ rawMessage }) => rawMessage === message)[index];
      if (line) return line.properties;
      await this.#arrival.promise;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }

  #take(record: LogRecord): void {
    this.log.push(record);
    this.#arrival.resolve();
    this.#arrival = Promise.withResolvers<void>();
  }
}

function presenting(
  listener: TlsListener,
  shown: () => Uint8Array | undefined,
): TlsListener {
  return {
    address: listener.address,
    close: () => listener.close(),
    async *[Symbol.asyncIterator]() {
      for await (const incoming of listener) yield withCertificate(incoming, shown());
    },
  };
}

function withCertificate(
  incoming: IncomingConnection,
  certificate: Uint8Array | undefined,
): IncomingConnection {
  const peerCertificates = certificate ? [certificate] : [];
  return {
    peerAddress: incoming.peerAddress,
    abort: () => incoming.abort(),
    handshake: async () =>
      new Proxy<TlsConnection>(await incoming.handshake(), {
        get(tls, name) {
          if (name === "peerCertificates") return peerCertificates;
          const value = Reflect.get(tls, name);
          return typeof value === "function" ? value.bind(tls) : value;
        },
      }),
  };
}
