/** What attacks are mounted on: a server in this process, any part of which a test may exchange. */
import { deadline } from "@std/async/deadline";
import type { LogRecord } from "@logtape/logtape";
import type { Device } from "../../lib/rdma/device.ts";
import { openDevice } from "../../lib/rdma/provider.ts";
import type { Audit } from "../../lib/security/audit.ts";
import { parsePolicy } from "../../lib/security/policy_parser.ts";
import { PsnSource } from "../../lib/security/psn.ts";
import { type KeyLimits, keyLimits } from "../../lib/security/record_lane.ts";
import { Client, type ClientOptions } from "../../lib/services/client.ts";
import { portChooser } from "../../lib/services/port_choice.ts";
import {
  type ServerServices,
  serviceDefinitions,
  serviceNames,
} from "../../lib/services/server_services.ts";
import { Admission } from "../../lib/session/admission.ts";
import { AsyncEventLog } from "../../lib/session/async_event_log.ts";
import type { CountedReports } from "../../lib/session/counted_reports.ts";
import type { PortChoice, QueuePairPath } from "../../lib/session/data_path.ts";
import { connectByTls } from "../../lib/session/session_queue_pair.ts";
import { defaultLimits, type Limits } from "../../lib/session/limits.ts";
import { ClientTurns } from "../../lib/session/client_turns.ts";
import { LocalDataPath } from "../../lib/session/local_data_path.ts";
import type { SealMode } from "../../lib/session/sealing.ts";
import { Server } from "../../lib/session/server.ts";
import type { ServiceDefinition } from "../../lib/session/service.ts";
import { createAuthority } from "../../lib/tls/authority.ts";
import { listen } from "../../lib/tls/backend.ts";
import type { Endpoint, TlsListener } from "../../lib/tls/connection.ts";
import type { ClientAuthentication } from "../../lib/tls/credentials.ts";
import { issueCertificate } from "../../lib/tls/issue.ts";
import type { Identity } from "../../lib/tls/trust.ts";
import { provider } from "../provider.ts";
import { HostileClient } from "../session/hostile_client.ts";
import { CapturedLog } from "../telemetry/captured_log.ts";
import { clientIdentity } from "../tls/client_certificate.ts";

/** Milliseconds after which something that an attack waits for is not expected any more. */
const PATIENCE = 10_000;

/** An authority, and a certificate of its for the provider's address. */
export async function serverIdentity(): Promise<{ authority: string; identity: Identity }> {
  const { authority, identity: { certificate } } = await createAuthority("ecdsa-p256");
  const identity = await issueCertificate(authority, {
    commonName: "server",
    use: "server",
    hosts: [provider.address],
    days: 1,
    keyType: "ecdsa-p256",
  });
  return { authority: certificate, identity };
}

const own = await serverIdentity();
const clients = await createAuthority("ecdsa-p256");

/** The authority of every system's server, PEM. */
export const { authority } = own;

/** The authority whose clients {@linkcode SystemOptions.clientAuthentication} may believe, PEM. */
export const clientAuthority = clients.identity.certificate;

/** A certificate of {@linkcode clientAuthority}. */
export function clientCertificate(organizationalUnit: string): Promise<Identity> {
  const subject = [["OU", organizationalUnit], ["CN", "client"]] as const;
  return clientIdentity(clients.authority, { subject });
}

/** What a test exchanges; all else is as `verbseal server` has it. */
export interface SystemOptions {
  readonly limits?: Partial<Limits>;
  readonly admission?: Admission;
  readonly psns?: PsnSource;
  readonly audit?: Audit;
  /** YAML. */
  readonly policy?: string;
  readonly clientAuthentication?: ClientAuthentication;
  /** What the server shows; by default one of {@linkcode authority}. */
  readonly identity?: Identity;
  /** The device of all sessions, from that which there is. */
  readonly device?: (device: Device) => Device;
  /** Services, from those that there are. */
  readonly services?: (
    definitions: readonly ServiceDefinition[],
    root: string,
  ) => readonly ServiceDefinition[];
  /** Nothing is sealed unless told: the other countermeasures hold by themselves. */
  readonly seal?: SealMode;
  /** What goes under one key, where it is less than in the program. */
  readonly sealLimits?: KeyLimits;
  /** Of the clients of the thread that serves them. */
  readonly turns?: ClientTurns;
  /** Of asynchronous events. */
  readonly eventReports?: CountedReports;
  /** A session's data path, from that which it would have. */
  readonly dataPath?: (path: QueuePairPath) => QueuePairPath;
}

/** Where a client's queue pair is; on the port of the provider unless told. */
export interface ClientPlace {
  readonly device: Device;
  readonly port?: PortChoice;
  /** As of {@linkcode HostileClient}. */
  readonly detour?: number | undefined;
}

/** The server, and what the test looks at. */
export class System implements AsyncDisposable {
  readonly log: CapturedLog;
  /** The device that sessions use, and that of clients. */
  readonly device: Device;
  readonly clientDevice: Device;
  readonly #listener: TlsListener;

  private constructor(
    readonly root: string,
    listener: TlsListener,
    device: Device,
    clientDevice: Device,
    log: CapturedLog,
    private readonly seal: SealMode,
    private readonly stack: AsyncDisposableStack,
  ) {
    this.#listener = listener;
    this.device = device;
    this.clientDevice = clientDevice;
    this.log = log;
  }

  static async start(options: SystemOptions = {}): Promise<System> {
    await using building = new AsyncDisposableStack();
    const root = await Deno.makeTempDir({ prefix: "verbseal-" });
    building.defer(() => Deno.remove(root, { recursive: true }));
    const log = building.use(new CapturedLog());
    const device = building.use(openDevice(provider.device));
    const ending = new AbortController();
    building.defer(() => ending.abort());
    new AsyncEventLog(options.eventReports).watch(device, ending.signal);
    const listener = listen({
      hostname: provider.address,
      port: 0,
      identity: options.identity ?? own.identity,
      ...(options.clientAuthentication
        ? { clientAuthentication: options.clientAuthentication }
        : {}),
    });
    const running = run(options, listener, device, root);
    building.defer(running);
    const clientDevice = building.use(openDevice(provider.device, { standardPort: false }));
    return new System(
      root,
      listener,
      device,
      clientDevice,
      log,
      options.seal ?? "off",
      building.move(),
    );
  }

  get port(): number {
    return this.#listener.address.port;
  }

  /** A client that can stop or lie at any step; it has finished the TLS handshake. */
  connect(
    { device, ...place }: ClientPlace = { device: this.clientDevice },
  ): Promise<HostileClient> {
    const seal = this.seal === "off" ? "off" : "aes-256-gcm";
    return HostileClient.connect(this, authority, device, { seal, ...place });
  }

  /** The same, with a session. */
  async hostile(place?: ClientPlace): Promise<HostileClient> {
    using building = new DisposableStack();
    const client = building.use(await this.connect(place));
    await client.establish();
    building.move();
    return client;
  }

  /** A client of the program. */
  async client(options: Partial<ClientOptions> = {}): Promise<Client> {
    return await Client.open({
      server: this.#listener.address,
      trust: { authorities: [authority] },
      device: provider.device,
      connect: "tls",
      seal: this.seal,
      cmPort: 4791,
      handshakeSeconds: 10,
      agent: "test",
      ...options,
    });
  }

  /** Where clients of the program find it. */
  get address(): Endpoint {
    return this.#listener.address;
  }

  /** Why a client's session has ended. */
  async ended({ peer }: Pick<HostileClient, "peer">): Promise<unknown> {
    const isEnd = ({ rawMessage, properties }: LogRecord) =>
      rawMessage === "session ended" && properties.peer === peer;
    return (await deadline(this.log.logged(isEnd), PATIENCE)).properties.reason;
  }

  /** Resolves when a session has ended for this reason. */
  async sessionEnded(reason: string): Promise<void> {
    const isEnd = ({ rawMessage, properties }: LogRecord) =>
      rawMessage === "session ended" && properties.reason === reason;
    await deadline(this.log.logged(isEnd), PATIENCE);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stack.disposeAsync();
  }
}

/** Runs the server; gives what ends it. */
function run(
  options: SystemOptions,
  listener: TlsListener,
  opened: Device,
  root: string,
): () => Promise<void> {
  const limits = { ...defaultLimits, ...options.limits };
  const offered: ServerServices = {
    root,
    lentBytes: limits.lentBytes,
    log: { level: "error", format: "text" },
  };
  const shipped = serviceDefinitions(offered);
  const definitions = options.services?.(shipped, root) ?? shipped;
  const device = options.device?.(opened) ?? opened;
  const { turns = new ClientTurns(), sealLimits = keyLimits } = options;
  const policy = options.policy === undefined
    ? undefined
    : parsePolicy(options.policy, "policy.yaml");
  const server = new Server(listener, {
    limits,
    admission: options.admission ?? new Admission(limits),
    psns: options.psns ?? new PsnSource(),
    audit: options.audit,
    services: serviceNames(offered),
    ...(policy ? { policy: () => policy } : {}),
    transports: ["rdma"],
    seal: options.seal ?? "off",
    connectQueuePair: { tls: connectByTls },
    selectPort: portChooser(provider.device),
    openDataPath: (path) => {
      const dataPath = new LocalDataPath(device, path, definitions, { turns, sealLimits });
      return options.dataPath?.(dataPath) ?? dataPath;
    },
  });
  const stopping = new AbortController();
  const running = server.run(stopping.signal);
  return async () => {
    stopping.abort();
    await running;
  };
}
