import type { Connect } from "../control/messages.ts";
import type { PortSelection } from "../rdma/port_selection.ts";
import { openDevice, providerOf, selectPort } from "../rdma/provider.ts";
import { ClientSession } from "../session/client_session.ts";
import { connectByTls, type Established } from "../session/establish.ts";
import { LocalDataPath } from "../session/local_data_path.ts";
import { checkManageable, managedClient } from "../session/managed_connection.ts";
import { logger } from "../telemetry/log.ts";
import { dial } from "../tls/backend.ts";
import { type Endpoint, endpointText, kernelText } from "../tls/connection.ts";
import type { Identity, Trust } from "../tls/trust.ts";
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
  /** As for {@linkcode selectPort}. */
  readonly device: string;
  readonly connect: Connect;
  /** Service port of the server's connection manager. */
  readonly cmPort: number;
  /** Seconds for the connection and the TLS handshake, and again for the exchange. */
  readonly handshakeSeconds: number;
  readonly agent: string;
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
    const { server, trust, identity, serverName, handshakeSeconds, connect } = options;
    const signal = options.signal ?? new AbortController().signal;
    if (connect === "cm") checkManageable(providerOf(options.device) ?? "verbs");
    await using building = new AsyncDisposableStack();
    const tls = await dial({
      ...server,
      trust,
      handshakeSeconds,
      signal,
      ...(identity ? { identity } : {}),
      ...(serverName === undefined ? {} : { serverName }),
    });
    building.defer(() => tls.abort());
    const { localAddress, peerAddress } = tls;
    const selection = selectPort(options.device, localAddress.hostname);
    logSelection(options.device, selection);
    if (connect === "cm") checkManageable(selection.provider, selection.reason);
    const device = building.use(openDevice(selection.device));
    const messages = new MessageClient();
    const memory = new MemoryClient();
    const files = new FileClient();
    const session = building.use(
      await ClientSession.open({
        tls,
        agent: options.agent,
        connect,
        connectQueuePair: connect === "tls"
          ? connectByTls
          : managedClient(peerAddress.hostname, options.cmPort, localAddress.hostname),
        services: ["messages", "memory", "files"],
        handshakeSeconds,
        signal,
        port: portChoice(selection),
        openDataPath: (path) => new LocalDataPath(device, path, [messages, memory, files]),
      }),
    );
    log.debug("session established", {
      session: session.agreed.session,
      server: endpointText(server),
      ...establishedFacts(session.agreed),
    });
    return new Client(session, messages, memory, files, building.move());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.resources.disposeAsync();
  }
}

/** That `auto` does without an RDMA device is worth a line; what was asked for is not. */
function logSelection(wanted: string, selection: PortSelection): void {
  const { provider, device, port, gid, reason } = selection;
  const level = wanted === "auto" && provider === "roce" ? "info" : "debug";
  log[level]("device chosen", { device, port: port.number, gid: gid.gid, reason });
}

/** What carries the session's data. */
function establishedFacts(agreed: Established): Record<string, unknown> {
  const { transport } = agreed;
  if (transport === "ktls") return { transport, ktls: kernelText(agreed.kernel) };
  const { local, remote } = agreed;
  return {
    transport,
    qpn: local.qpn,
    psn: local.psn,
    gid: local.gid,
    peerQpn: remote.qpn,
    peerPsn: remote.psn,
    peerGid: remote.gid,
  };
}
