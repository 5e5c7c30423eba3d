import type { Connect, Seal, Transport } from "../control/messages.ts";
import { TlsError } from "../errors.ts";
import type { Device } from "../rdma/device.ts";
import type { PortSelection } from "../rdma/port_selection.ts";
import { openDevice, providerOf, selectPort } from "../rdma/provider.ts";
import { type ClientQueuePairs, ClientSession } from "../session/client_session.ts";
import type { DialData } from "../session/data_dialer.ts";
import type { PortChoice, QueuePairPath, QueuePairPathOptions } from "../session/data_path.ts";
import { LocalDataPath } from "../session/local_data_path.ts";
import { checkManageable, managedClient } from "../session/managed_connection.ts";
import { offeredSeals, type SealMode } from "../session/sealing.ts";
import type { ServiceDefinition } from "../session/service.ts";
import { type Established, streamFields } from "../session/session_path.ts";
import { connectByTls, type ConnectQueuePair } from "../session/session_queue_pair.ts";
import { StreamDataPath } from "../session/stream_data_path.ts";
import { warnOfUserSpaceTls } from "../session/user_space_tls.ts";
import { logger } from "../telemetry/log.ts";
import { dial, dialerBackend } from "../tls/backend.ts";
import { type Endpoint, endpointText, type TlsConnection } from "../tls/connection.ts";
import { dataConnection, dataProtocol } from "../tls/data_connection.ts";
import type { TlsSessionCache } from "../tls/openssl_session_cache.ts";
import type { DialOptions, TlsSettings } from "../tls/options.ts";
import type { OcspMode } from "../tls/revocation.ts";
import { peerIdentity } from "../tls/peer_identity.ts";
import { believesKeysAlone, type Identity, type Trust } from "../tls/trust.ts";
import { FileClient } from "./file_client.ts";
import { MemoryClient } from "./memory.ts";
import { MessageClient } from "./messages.ts";
import { portChoice } from "./port_choice.ts";

const log = logger("client");

export interface ClientOptions {
  readonly server: Endpoint;
  readonly trust: Trust;
  /** What the server is shown if it asks for a certificate. */
  readonly identity?: Identity;
  /** Name that the server's certificate must be for, where it is not the host's. */
  readonly serverName?: string;
  readonly settings?: TlsSettings;
  /** Whether the server has to staple an OCSP response to its certificate; it need not unless told. */
  readonly ocsp?: OcspMode;
  /** What may carry data, most wanted first; RDMA alone unless told. */
  readonly transports?: readonly Transport[];
  /** Bytes that a data connection carries before another one, with other keys, takes its place. */
  readonly rekeyBytes?: number;
  /** As for {@linkcode selectPort}. */
  readonly device: string;
  readonly connect: Connect;
  /** Whether what RDMA carries has to be sealed; it has unless told. */
  readonly seal?: SealMode;
  /** Service port of the server's connection manager. */
  readonly cmPort: number;
  /** Seconds for the connection and the TLS handshake, and again for the exchange. */
  readonly handshakeSeconds: number;
  readonly agent: string;
  /** Name of an earlier session with the server, with whose work this one goes on. */
  readonly resume?: string | undefined;
  /** TLS sessions of earlier ones, which spare a handshake its certificates. */
  readonly tlsSessions?: TlsSessionCache;
  /** Gives up on opening the session. */
  readonly signal?: AbortSignal;
}

/** A session with a server, and the client's side of every service. */
export class Client implements AsyncDisposable {
  private constructor(
    readonly session: ClientSession,
    readonly messages: MessageClient,
    readonly memory: MemoryClient,
    readonly files: FileClient,
    private readonly resources: AsyncDisposableStack,
  ) {}

  /** @throws VerbsealError naming why there is no session */
  static async open(options: ClientOptions): Promise<Client> {
    const { server, connect, handshakeSeconds, transports = ["rdma"], rekeyBytes } = options;
    const signal = options.signal ?? new AbortController().signal;
    if (connect === "cm") checkManageable(providerOf(options.device) ?? "verbs");
    await using building = new AsyncDisposableStack();
    const dialling = dialOptions(options);
    const { backend, reason } = dialerBackend(dialling);
    const { tlsSessions: sessions } = options;
    const tls = await dial({ ...dialling, ...(sessions ? { sessions } : {}), signal }, { backend });
    building.defer(() => tls.abort());
    log.debug("connected", {
      ...{ server: endpointText(server), tls: backend, tlsReason: reason },
      resumed: tls.handshake?.resumed,
    });
    const messages = new MessageClient();
    const memory = new MemoryClient();
    const files = new FileClient();
    const services = [messages, memory, files];
    const session = building.use(
      await ClientSession.open({
        tls,
        agent: options.agent,
        resume: options.resume,
        transports,
        queuePairs: transports.includes("rdma")
          ? building.use(new QueuePairs(tls, options, services))
          : undefined,
        streams: transports.includes("ktls")
          ? {
            dial: dataDialer(options, tls.peerAddress),
            openDataPath: (path) => new StreamDataPath(path, services, { rekeyBytes }),
          }
          : undefined,
        services: services.map(({ name }) => name),
        handshakeSeconds,
        signal,
      }),
    );
    warnOfUserSpaceTls(log, session.agreed);
    warnOfUnsealed(session.agreed);
    await logEstablished(session.agreed, options);
    return new Client(session, messages, memory, files, building.move());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.resources.disposeAsync();
  }
}

/** A device of this host, and how queue pairs on it are brought up. */
class QueuePairs implements ClientQueuePairs, Disposable {
  readonly port: PortChoice;
  readonly connect: Connect;
  readonly seals: readonly Seal[];
  readonly connectQueuePair: ConnectQueuePair;
  readonly #device: Device;

  constructor(
    { localAddress, peerAddress }: TlsConnection,
    { device, connect, cmPort, seal = "required" }: ClientOptions,
    private readonly services: readonly ServiceDefinition[],
  ) {
    const selection = selectPort(device, localAddress.hostname);
    logSelection(device, selection);
    if (connect === "cm") checkManageable(selection.provider, selection.reason);
    this.port = portChoice(selection);
    this.connect = connect;
    this.seals = offeredSeals(seal);
    this.connectQueuePair = connect === "tls"
      ? connectByTls
      : managedClient(peerAddress.hostname, cmPort, localAddress.hostname);
    this.#device = openDevice(selection.device);
  }

  readonly openDataPath = (path: QueuePairPathOptions): QueuePairPath =>
    new LocalDataPath(this.#device, path, this.services);

  [Symbol.dispose](): void {
    this.#device[Symbol.dispose]();
  }
}

/**
 * Both kinds of connections go to the same port, and ask the same of the server. Those for data
 * resume no TLS session: each has keys of its own, which is what a rekey is for.
 */
function dialOptions(
  { server, trust, identity, serverName, settings, ocsp, handshakeSeconds }: ClientOptions,
): DialOptions {
  return {
    ...server,
    trust,
    handshakeSeconds,
    ...(identity ? { identity } : {}),
    ...(serverName === undefined ? {} : { serverName }),
    ...(settings === undefined ? {} : { settings }),
    ...(ocsp === undefined ? {} : { ocsp }),
  };
}

/** What a server says that speaks nothing of what the kernel can seal and open. */
const nothingInCommon: ReadonlySet<string> = new Set(["version_refused", "no_common_cipher"]);

/**
 * Connects for data: by what the kernel can seal and open, or where the server does not speak that,
 * by whatever both do.
 *
 * @param peer the address that the session has reached: a name may have several
 */
function dataDialer(options: ClientOptions, peer: Endpoint): DialData {
  const { server: { hostname }, serverName = hostname } = options;
  const data = { ...dialOptions(options), ...peer, serverName, protocol: dataProtocol };
  let kernel: "preferred" | "allowed" = "preferred";
  const connect = async (signal: AbortSignal) =>
    dataConnection(await dial({ ...data, kernel, signal }));
  return async (signal) => {
    try {
      return await connect(signal);
    } catch (error) {
      const fallsBack = kernel === "preferred" && error instanceof TlsError &&
        nothingInCommon.has(error.code);
      if (!fallsBack) throw error;
      kernel = "allowed";
      return await connect(signal);
    }
  };
}

/** Both sides have asked for it; who did may have forgotten. */
function warnOfUnsealed(agreed: Established): void {
  if (agreed.transport !== "rdma" || agreed.choices.seal !== "off") return;
  log.warning("this session's data can be read and changed on the network: it is not sealed", {
    remedy: "leave out --seal off, here and at the server",
  });
}

/** That `auto` does without an RDMA device is worth a line; what was asked for is not. */
function logSelection(wanted: string, selection: PortSelection): void {
  const { provider, device, port, gid, reason } = selection;
  const level = wanted === "auto" && provider === "roce" ? "info" : "debug";
  log[level]("device chosen", { device, port: port.number, gid: gid.gid, reason });
}

/** Whom a client has met over ktls is worth a line, as it is to the server. */
async function logEstablished(
  agreed: Established,
  { server, trust }: ClientOptions,
): Promise<void> {
  log[agreed.transport === "ktls" ? "info" : "debug"]("session established", {
    session: agreed.session,
    server: endpointText(server),
    ...await establishedFacts(agreed, trust),
  });
}

/** What carries the session's data. */
async function establishedFacts(
  agreed: Established,
  trust: Trust,
): Promise<Record<string, unknown>> {
  if (agreed.transport === "ktls") {
    const { subject, issuer } = await peerIdentity(agreed.peerCertificates[0]!);
    // Whose key is known may say anything of itself.
    const verified = believesKeysAlone(trust) ? "key only" : "yes";
    return { ...streamFields(agreed), subject, issuer, verified };
  }
  const { transport, local, remote, choices } = agreed;
  return {
    transport,
    seal: choices.seal,
    qpn: local.qpn,
    psn: local.psn,
    gid: local.gid,
    peerQpn: remote.qpn,
    peerPsn: remote.psn,
    peerGid: remote.gid,
  };
}
