import type { Transport } from "../control/messages.ts";
import type { User } from "../security/user.ts";
import { type BackendChoice, listen, listenerBackend } from "../tls/backend.ts";
import { type Endpoint, endpointText, type TlsListener } from "../tls/connection.ts";
import type { ListenerCredentials } from "../tls/credentials.ts";
import { MetricsPort, type ServerMetricsOptions } from "./server_metrics.ts";
import { tlsSettings, type TlsSettingsOptions } from "./tls_options.ts";
import { protocolsOf } from "./transport_options.ts";
import type { ListenAddress } from "./values.ts";

/** What a server's options say of where it listens. */
export interface ServerPortOptions extends ServerMetricsOptions, TlsSettingsOptions {
  readonly address: string;
  readonly port: number;
  readonly messagesListen?: ListenAddress;
  readonly user?: User;
}

/** Addresses of ports that are open, by what they are called where a server tells of itself. */
interface Addresses<Address> {
  readonly address: Address;
  readonly messagesAddress?: Address;
  readonly metricsAddress?: Address;
}

/** All ports of a server but that of the connection manager, opened while it may what root may; disposing them closes them. */
export class ServerPorts implements Disposable {
  private constructor(
    private readonly open: DisposableStack,
    readonly backend: BackendChoice,
    readonly listener: TlsListener,
    readonly messageListener: TlsListener | undefined,
    readonly metricsPort: MetricsPort | undefined,
  ) {}

  /** @throws VerbsealError when one of them cannot be had */
  static async open(
    options: ServerPortOptions,
    transports: readonly Transport[],
    credentials: ListenerCredentials,
  ): Promise<ServerPorts> {
    using building = new DisposableStack();
    const tlsOptions = {
      ...{ hostname: options.address, port: options.port, ...credentials },
      settings: tlsSettings(options),
      otherUser: options.user !== undefined,
    };
    const listenOptions = { ...tlsOptions, ...protocolsOf(transports) };
    const backend = listenerBackend(listenOptions);
    const listener = listen(listenOptions, backend);
    building.defer(() => listener.close());
    const messageListener = options.messagesListen &&
      listen({ ...tlsOptions, ...options.messagesListen, protocols: [] }, backend);
    building.defer(() => messageListener?.close());
    const metricsPort = await MetricsPort.open(options, building);
    const open = building.move();
    return new ServerPorts(open, backend, listener, messageListener, metricsPort);
  }

  /** Those by which clients come. */
  get tlsListeners(): TlsListener[] {
    return this.messageListener ? [this.listener, this.messageListener] : [this.listener];
  }

  get addresses(): Addresses<Endpoint> {
    const { listener, messageListener, metricsPort } = this;
    return {
      address: listener.address,
      ...(messageListener ? { messagesAddress: messageListener.address } : {}),
      ...(metricsPort ? { metricsAddress: metricsPort.address } : {}),
    };
  }

  /** The same, as people write them. */
  get addressTexts(): Addresses<string> {
    const texts = Object.entries(this.addresses).map(([name, at]) => [name, endpointText(at)]);
    return Object.fromEntries(texts);
  }

  [Symbol.dispose](): void {
    this.open[Symbol.dispose]();
  }
}
