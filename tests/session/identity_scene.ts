/** A server in this process that asks its clients for certificates. */
import { configureSync, type LogRecord } from "@logtape/logtape";
import type { Policy } from "../../lib/security/policy.ts";
import { parsePolicy } from "../../lib/security/policy_parser.ts";
import { PsnSource } from "../../lib/security/psn.ts";
import { Client } from "../../lib/services/client.ts";
import { portChooser } from "../../lib/services/port_choice.ts";
import {
  type ServerServices,
  serviceNames,
  startWorkers,
} from "../../lib/services/server_services.ts";
import { Admission } from "../../lib/session/admission.ts";
import { connectByTls } from "../../lib/session/session_queue_pair.ts";
import { defaultLimits, type Limits } from "../../lib/session/limits.ts";
import { Server } from "../../lib/session/server.ts";
import { listen } from "../../lib/tls/backend.ts";
import { createAuthority } from "../../lib/tls/authority.ts";
import type { TlsListener } from "../../lib/tls/connection.ts";
import type { CheckRevocation } from "../../lib/tls/revocation.ts";
import { issueCertificate } from "../../lib/tls/issue.ts";
import type { Identity } from "../../lib/tls/trust.ts";
import { provider } from "../provider.ts";
import { type ClientCertificateOptions, clientIdentity } from "../tls/client_certificate.ts";

const { authority, identity: { certificate: authorityPem } } = await createAuthority("ecdsa-p256");
const identity = await issueCertificate(authority, {
  commonName: "server",
  use: "server",
  hosts: [provider.address],
  days: 1,
  keyType: "ecdsa-p256",
});

/** Seconds for an exchange: in the first one of a run the worker's code is checked. */
const PATIENCE = 60;

export interface IdentitySceneOptions {
  /** YAML. */
  readonly policy?: string;
  /** That the server believes beside its own, PEM. */
  readonly authorities?: readonly string[];
  /** Instead of the default ones. */
  readonly limits?: Partial<Limits>;
  /** Sessions that the device claims to have room for. */
  readonly room?: number;
}

/** The server, and clients of it. */
export class IdentityScene implements AsyncDisposable {
  /** The policy in force, if there was one when it was created. */
  policy: Policy | undefined;
  /** What the server asks about clients' certificates; nothing unless a test says. */
  checkRevocation: CheckRevocation = () => Promise.resolve();
  readonly log: LogRecord[] = [];
  #arrival = Promise.withResolvers<void>();
  readonly #listener: TlsListener;
  readonly admission: Admission;
  readonly #stack: AsyncDisposableStack;

  private constructor(
    readonly root: string,
    policy: Policy | undefined,
    { authorities = [], limits: others, room }: IdentitySceneOptions,
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
    const limits = { ...defaultLimits, handshakeSeconds: PATIENCE, ...others };
    const choosePort = portChooser(provider.device);
    const services: ServerServices = {
      root,
      lentBytes: limits.lentBytes,
      log: { level: "error", format: "text" },
    };
    const workers = building.use(startWorkers(services, 1));
    this.#listener = listen({
      hostname: provider.address,
      port: 0,
      identity,
      clientAuthentication: {
        trust: { authorities: [authorityPem, ...authorities] },
        required: false,
      },
    });
    const server = new Server(this.#listener, {
      limits,
      admission: this.admission = new Admission(limits),
      psns: new PsnSource(),
      services: serviceNames(services),
      ...(policy ? { policy: () => this.policy! } : {}),
      checkRevocation: (connection, signal) => this.checkRevocation(connection, signal),
      transports: ["rdma"],
      seal: "required",
      connectQueuePair: { tls: connectByTls },
      selectPort: (address) => ({
        ...choosePort(address),
        ...(room === undefined ? {} : { room }),
      }),
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

  static async create(options: IdentitySceneOptions = {}): Promise<IdentityScene> {
    const { policy } = options;
    await using building = new AsyncDisposableStack();
    const root = await Deno.makeTempDir({ prefix: "verbseal-" });
    building.defer(() => Deno.remove(root, { recursive: true }));
    const rules = policy === undefined ? undefined : parsePolicy(policy, "policy.yaml");
    return new IdentityScene(root, rules, options, building);
  }

  /** A certificate of the authority that the server believes, and its key. */
  certificate(options: Pick<ClientCertificateOptions, "subject" | "names">): Promise<Identity> {
    return clientIdentity(authority, options);
  }

  /** A client that shows this certificate, or none. */
  async client(identity?: Identity, signal?: AbortSignal): Promise<Client> {
    const client = await Client.open({
      server: this.#listener.address,
      trust: { authorities: [authorityPem] },
      ...(identity ? { identity } : {}),
      device: provider.device,
      connect: "tls",
      cmPort: 4791,
      handshakeSeconds: PATIENCE,
      agent: "test",
      ...(signal ? { signal } : {}),
    });
    return this.#stack.use(client);
  }

  /** A TCP connection that says nothing. */
  tcp(): Promise<Deno.TcpConn> {
    return Deno.connect(this.#listener.address);
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
