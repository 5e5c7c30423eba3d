import { delay } from "@std/async/delay";
import { ServerExchange } from "../control/exchange.ts";
import type {
  Hello,
  Offers,
  Provider,
  RdmaChoices,
  Service,
  Transport,
  Welcome,
} from "../control/messages.ts";
import {
  errorText,
  IntegrityError,
  LimitError,
  type LimitName,
  RefusedError,
  TlsError,
  VerbsealError,
} from "../errors.ts";
import { psnText } from "../security/psn.ts";
import { logger } from "../telemetry/log.ts";
import { endpointText, type IncomingConnection, type TlsConnection } from "../tls/connection.ts";
import { dataConnection, dataProtocol } from "../tls/data_connection.ts";
import { ControlConnection } from "./control_connection.ts";
import { ControlLoop } from "./control_loop.ts";
import type {
  DataPath,
  DataPathOptions,
  PortChoice,
  QueuePairPath,
  StreamPath,
} from "./data_path.ts";
import { errorMessage, establish, hungUp } from "./establish.ts";
import type { CountedReports, Omitted } from "./counted_reports.ts";
import { checkManageable } from "./managed_connection.ts";
import { MESSAGE_BYTES } from "./messenger.ts";
import { chooseSeal } from "./sealing.ts";
import type { ServerContext } from "./server_context.ts";
import type { ResumedTransfer } from "./service.ts";
import { SessionAudit, usageFields } from "./session_audit.ts";
import { SessionClient } from "./session_client.ts";
import type { ConnectQueuePair } from "./session_queue_pair.ts";
import { type Established, type SessionPath, streamFields } from "./session_path.ts";
import type { SessionUsage } from "./usage.ts";
import { warnOfUserSpaceTls } from "./user_space_tls.ts";

const log = logger("session");

/** What sessions have in common that is counted, and told of in few lines. */
export interface SessionReports {
  /** Sessions that ended as something was not what their client had sent, by the error's code. */
  readonly integrityFailures: CountedReports;
  /** Sessions over ktls of which the kernel seals nothing. */
  readonly userSpaceTls: CountedReports;
}

/** One client's session, from its TCP connection to the last log line. */
export class ServerSession {
  readonly #context: ServerContext;
  readonly #incoming: IncomingConnection;
  readonly #reports: SessionReports;
  readonly #client = new SessionClient();
  readonly #audit: SessionAudit;
  readonly #admitted = new DisposableStack();
  #connection: ControlConnection | undefined;
  #agent = "";
  #resume: string | undefined;
  #port: PortChoice | undefined;
  #peerProvider: Provider | undefined;
  #loop: ControlLoop | undefined;
  #path: SessionPath | undefined;
  #stopping: (() => void) | undefined;
  #stopped = false;
  /** Why this side cut the connection in the exchange. */
  #cut: VerbsealError | undefined;
  /** Ends with the connection what else is waited for. */
  readonly #cutting = new AbortController();

  constructor(context: ServerContext, incoming: IncomingConnection, reports: SessionReports) {
    this.#context = context;
    this.#incoming = incoming;
    this.#reports = reports;
    const peer = endpointText(incoming.peerAddress);
    this.#audit = new SessionAudit(context.audit, peer, this.#client);
  }

  /** Serves the client. Never throws: whatever happens ends in one log line, unless there are too many. */
  async run(): Promise<void> {
    const peer = endpointText(this.#incoming.peerAddress);
    const started = performance.now();
    let agreed: Established | undefined;
    let lost: string | undefined;
    let outcome: Record<string, unknown> | undefined;
    try {
      agreed = await this.#establish();
      if (!agreed) return;
      this.#logEstablished(agreed, peer);
      warnOfUserSpaceTls(
        log,
        agreed,
        () => this.#reports.userSpaceTls.count("user_space_tls"),
      );
      await this.#audit.record("accepted", { ...this.#claims, ...this.#facts(agreed) });
      outcome = { reason: await this.#serve() };
    } catch (error) {
      lost = error instanceof VerbsealError ? error.code : "internal";
      outcome = this.#failure(lost, error, agreed !== undefined);
      // Not awaited, here and below: a peer that does not read must not keep what it holds.
      this.#connection?.sendLast(errorMessage(error));
    }
    const seconds = Number(((performance.now() - started) / 1000).toFixed(3));
    await this.#end(lost, (usage) => {
      if (!outcome) return;
      log[lost === undefined ? "info" : "warning"]("session ended", {
        peer,
        ...(agreed ? { session: agreed.session } : {}),
        ...this.#client.fields,
        ...outcome,
        ...usageFields(usage),
        seconds,
      });
      this.#audit.over(agreed !== undefined, outcome, usage);
    });
  }

  /** Ends the session once its requests are answered, or after `seconds`. */
  async stop(seconds: number): Promise<void> {
    this.#stopped = true;
    const timeout = Promise.withResolvers<void>();
    const timer = setTimeout(timeout.resolve, seconds * 1000);
    await Promise.race([this.#loop?.worked(), timeout.promise]);
    clearTimeout(timer);
    this.#connection?.sendLast({ name: "BYE", body: {} });
    this.#stopping?.();
    if (!this.#loop) this.#cutOff(new VerbsealError("shutdown", "the server is stopping"));
  }

  #logEstablished(agreed: Established, peer: string): void {
    const { session } = agreed;
    log.info("session established", {
      session,
      peer,
      ...this.#client.fields,
      ...this.#claims,
      ...this.#facts(agreed),
    });
    if (agreed.transport !== "rdma" || agreed.choices.seal !== "off") return;
    log.warning("this session's data can be read and changed on the network: it is not sealed", {
      session,
      peer,
      remedy: "leave out --seal off, here and at the client",
    });
  }

  /** What the last lines tell of it; undefined for a limit that too many have hit. */
  #failure(
    reason: string,
    error: unknown,
    accepted: boolean,
  ): Record<string, unknown> | undefined {
    const detail = errorText(error);
    if (error instanceof IntegrityError) {
      return { reason, detail, ...this.#integrityFailed(reason, detail) };
    }
    if (!(error instanceof LimitError)) return { reason, detail };
    const omitted = this.#limitHit(error.code, accepted ? "ended" : "refused");
    return omitted || accepted ? { reason, detail, ...omitted } : undefined;
  }

  /** Gives how many of this kind there were since the server's start. */
  #integrityFailed(reason: string, detail: string): { count: number } {
    const omitted = this.#reports.integrityFailures.count(reason);
    const count = this.#reports.integrityFailures.counts[reason]!;
    if (omitted) this.#audit.note("integrity", { reason, detail, count, ...omitted });
    return { count };
  }

  /** What the client says of itself. */
  get #claims(): Record<string, unknown> {
    return {
      agent: this.#agent,
      ...(this.#resume === undefined ? {} : { resume: this.#resume }),
    };
  }

  /** What carries the session's data. */
  #facts(agreed: Established): Record<string, unknown> {
    if (agreed.transport === "ktls") return streamFields(agreed);
    const { transport, local, remote, path, choices } = agreed;
    return {
      transport,
      device: this.#port?.device,
      peerProvider: this.#peerProvider,
      qpn: local.qpn,
      psn: psnText(local.psn),
      gid: local.gid,
      peerQpn: remote.qpn,
      peerPsn: psnText(remote.psn),
      peerGid: remote.gid,
      mtu: path.mtu,
      seal: choices.seal,
    };
  }

  /** Gives what to add to a log line; undefined when there have been too many. */
  #limitHit(limit: LimitName, action: "refused" | "slowed" | "ended"): Omitted | undefined {
    const omitted = this.#context.admission.reports.count(limit);
    if (omitted) this.#audit.note("limit", { limit, action, ...omitted });
    return omitted;
  }

  /** A session that goes on has hit a limit. */
  #limited(message: string, limit: LimitName, action: "refused" | "slowed"): void {
    const omitted = this.#limitHit(limit, action);
    if (!omitted) return;
    const peer = endpointText(this.#incoming.peerAddress);
    const { session } = this.#audit;
    log.warning(message, { limit, session, peer, ...this.#client.fields, ...omitted });
  }

  #slowedDown = (limit: LimitName) => this.#limited("session slowed down", limit, "slowed");

  /** What the client has of a file, and from which session, only the client knows. */
  #resumed({ from, offset, ...transfer }: ResumedTransfer): void {
    const replaced = this.#path !== undefined && this.#path.epoch > 0;
    const resume = from ?? (replaced ? this.#audit.session : this.#resume);
    this.#audit.note("recovery", { ...transfer, offset: String(offset), resume });
  }

  async #request(path: SessionPath, service: Service, body: unknown): Promise<unknown> {
    try {
      return await path.request(service, body);
    } catch (error) {
      if (error instanceof LimitError) this.#limited("request refused", error.code, "refused");
      throw error;
    }
  }

  #cutOff(why: VerbsealError): void {
    this.#cut ??= why;
    this.#cutting.abort(why);
    this.#incoming.abort();
  }

  /** Undefined for a data connection, which its session goes on with. */
  async #establish(): Promise<Established | undefined> {
    const { handshakeSeconds } = this.#context.limits;
    using _place = this.#context.admission.connection(this.#incoming.peerAddress.hostname);
    const what = `the exchange was not finished within ${handshakeSeconds} seconds`;
    const deadline = setTimeout(
      () => this.#cutOff(new TlsError("exchange_timeout", what)),
      handshakeSeconds * 1000,
    );
    try {
      const tls = await this.#incoming.handshake();
      if (tls.alpn === dataProtocol) return await this.#join(tls);
      const connection = this.#connection = new ControlConnection(tls);
      await this.#client.identify(tls.peerCertificates);
      await this.#context.checkRevocation?.(tls, this.#cutting.signal);
      this.#path = await establish({
        exchange: new ServerExchange(),
        connection,
        admit: (hello) => this.#admit(hello, tls.localAddress.hostname),
        queuePairs: {
          psns: this.#context.psns,
          openDataPath: (welcome) => this.#openQueuePairPath(welcome),
          connectQueuePair: (choices) => this.#connectQueuePair(choices),
        },
        streams: this.#context.streams && {
          openDataPath: (welcome) => this.#openStreamPath(welcome),
          link: ({ session }, tokens) => this.#context.streams!.joins.expect(session, tokens),
        },
        replacementSeconds: handshakeSeconds,
        replacementsPerMinute: this.#context.limits.requeuesPerMinute,
        replacementTurn: (signal) => this.#awaitReplacement(signal),
      });
      return this.#path.agreed;
    } catch (error) {
      throw this.#cut ?? error;
    } finally {
      clearTimeout(deadline);
    }
  }

  async #admit(
    { offers, agent, resume }: Hello,
    localAddress: string,
  ): Promise<Pick<Welcome, "choices" | "limits">> {
    const { limits, transports, admission, services: offered, policy } = this.#context;
    this.#agent = agent;
    this.#resume = resume;
    const services = this.#audit.decide(() =>
      this.#client.authorize(offered, offers.services, policy?.())
    );
    const transport = this.#chooseTransport(offers, localAddress);
    if (!transport) {
      throw new RefusedError(
        "transport",
        `this server carries data by ${transports.join(" or ")} only`,
        "ask for another --transport, or start the server with it",
      );
    }
    const choices = transport === "rdma"
      ? this.#chooseQueuePair(offers, services, localAddress)
      : { transport, services };
    await this.#awaitTurn();
    this.#admitted.use(admission.session(this.#incoming.peerAddress.hostname, {
      quota: this.#client.quota(limits.clientsPerIdentity),
      registeredBytes: MESSAGE_BYTES + this.#registeredBytes,
      device: this.#port,
    }));
    await this.#audit.admitted(services);
    return {
      choices,
      limits: {
        messageBytes: limits.messageBytes,
        registeredBytes: Math.min(limits.lentBytes, this.#registeredBytes),
        // A client may be told of more than holds, as the server asks it for signs of life.
        idleSeconds: Math.ceil(limits.idleSeconds),
      },
    };
  }

  async #awaitTurn(): Promise<void> {
    const { hostname } = this.#incoming.peerAddress;
    const { admission } = this.#context;
    const milliseconds = admission.sessionDelay(hostname);
    if (milliseconds === 0) return;
    this.#limited("session delayed", "session_rate", "slowed");
    const connection = this.#connection!;
    const gone = new AbortController();
    // Its place among those who have not finished the exchange is given back at once.
    connection.ended.then(async () => gone.abort(await hungUp(connection)));
    try {
      await delay(milliseconds, { signal: AbortSignal.any([this.#cutting.signal, gone.signal]) });
    } catch (error) {
      admission.sessionGivenUp(hostname);
      throw error;
    }
  }

  /**
   * Waits until the client may have another queue pair; not so long that its session would be lost,
   * as of many whose link has failed.
   */
  async #awaitReplacement(signal: AbortSignal): Promise<void> {
    using client = this.#context.admission.replacementRates.join(this.#owner);
    const { rate } = client;
    const most = this.#context.limits.handshakeSeconds * 1000 / 2;
    if (rate.wait < most && rate.spend()) return;
    this.#limited("queue pair's replacement delayed", "requeues", "slowed");
    await delay(Math.min(rate.wait, most), { signal });
  }

  /** The client's choice, unless there is no RDMA device and the policy prefers another. */
  #chooseTransport({ transports }: Offers, localAddress: string): Transport | undefined {
    const [first, ...others] = transports.filter((way) => this.#context.transports.includes(way));
    const { withoutRdma } = this.#client;
    if (first !== "rdma" || !others.includes(withoutRdma)) return first;
    return this.#context.selectPort(localAddress).provider === "roce" ? withoutRdma : first;
  }

  /** The schema of HELLO sees to it that who offers RDMA says how. */
  #chooseQueuePair(offers: Offers, services: Service[], localAddress: string): RdmaChoices {
    const { connectQueuePair } = this.#context;
    const connect = offers.connect!.find((way) => connectQueuePair[way]);
    if (!connect) {
      throw new RefusedError(
        "connect",
        `this server connects queue pairs by ${Object.keys(connectQueuePair).join(" or ")} only`,
      );
    }
    const seal = chooseSeal(offers.seal!, this.#context.seal);
    const [peerProvider] = offers.providers!;
    const port = this.#context.selectPort(localAddress);
    if (connect === "cm") {
      for (const each of [port.provider, peerProvider]) {
        checkManageable(each);
      }
    }
    this.#port = port;
    this.#peerProvider = peerProvider;
    return { transport: "rdma", provider: port.provider, connect, seal, services };
  }

  /** By TLS a device looks for the client where it says that it is; the connection manager has found it. */
  #connectQueuePair({ connect, provider }: RdmaChoices): ConnectQueuePair {
    const { connectQueuePair, admission } = this.#context;
    const bringUp = connectQueuePair[connect]!;
    if (connect !== "tls" || provider !== "verbs") return bringUp;
    const { hostname } = this.#incoming.peerAddress;
    return (...order) => admission.inTurn(hostname, () => bringUp(...order));
  }

  #openQueuePairPath(welcome: Welcome): QueuePairPath {
    return this.#watched(this.#context.openDataPath({
      ...this.#pathOptions(welcome),
      port: this.#port!,
      peerProvider: this.#peerProvider!,
    }));
  }

  #openStreamPath(welcome: Welcome): StreamPath {
    return this.#watched(this.#context.streams!.openDataPath(this.#pathOptions(welcome)));
  }

  #watched<Path extends DataPath>(path: Path): Path {
    path.onSlowed = this.#slowedDown;
    path.onResumed = (transfer) => this.#resumed(transfer);
    return path;
  }

  /** What services may register: the policy may allow less than there is. */
  get #registeredBytes(): number {
    const { registeredBytes } = this.#client.permissions;
    return Math.min(this.#context.limits.registeredBytes - MESSAGE_BYTES, registeredBytes);
  }

  get #owner(): string {
    return this.#client.owner(this.#incoming.peerAddress.hostname);
  }

  #pathOptions({ session, limits, choices }: Welcome): DataPathOptions {
    this.#audit.session = session;
    return {
      side: "server",
      messageBytes: limits.messageBytes,
      services: choices.services,
      permissions: { ...this.#client.permissions, registeredBytes: this.#registeredBytes },
      limits: this.#context.limits,
      identity: this.#client.name,
      owner: this.#owner,
      session,
      resume: this.#resume,
    };
  }

  async #join(tls: TlsConnection): Promise<undefined> {
    const peer = endpointText(tls.peerAddress);
    const session = await this.#context.streams!.joins.take(dataConnection(tls));
    log.debug("data connection joined", { session, peer });
  }

  /** Serves requests until the session ends; returns why, or throws. */
  async #serve(): Promise<string> {
    const path = this.#path!;
    const { rate: clientRate } = this.#admitted.use(
      this.#context.admission.frameRates.join(this.#owner),
    );
    this.#loop = new ControlLoop({
      connection: this.#connection!,
      idleSeconds: this.#context.limits.idleSeconds,
      limits: this.#context.limits,
      clientRate,
      onRequest: (service, body) =>
        this.#audit.call(service, body, () => this.#request(path, service, body)),
      onSlowed: this.#slowedDown,
      onQueuePairFrame: (frame) => path.take(frame),
    });
    const stopping = new Promise<string>((resolve) => this.#stopping = () => resolve("shutdown"));
    if (this.#stopped) return "shutdown";
    const running = path.run({ replaced: (facts) => this.#audit.note("recovery", facts) });
    return await Promise.race([this.#loop.run(), running, stopping]);
  }

  /**
   * Frees everything; each step is done whatever becomes of the one before.
   *
   * @param lost why, if the client did not wish it
   * @param report told of what services have done, when they do no more; undefined if nobody knows
   */
  async #end(
    lost: string | undefined,
    report: (usage: SessionUsage | undefined) => void,
  ): Promise<void> {
    let usage: SessionUsage | undefined = this.#path ? undefined : {};
    const closing = this.#connection?.close();
    const steps = new AsyncDisposableStack();
    steps.defer(() => this.#admitted.dispose());
    steps.defer(() => this.#incoming.abort());
    steps.defer(() => closing);
    steps.defer(() => report(usage));
    steps.defer(async () => {
      if (this.#path) usage = await this.#path.close(lost);
    });
    await steps.disposeAsync().catch((error) =>
      log.error("resources of a session could not be freed", { error: errorText(error) })
    );
  }
}
