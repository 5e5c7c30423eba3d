import { delay } from "@std/async/delay";
import {
  errorText,
  LimitError,
  type LimitName,
  ProtocolError,
  TlsError,
  VerbsealError,
} from "../errors.ts";
import type { Audit } from "../security/audit.ts";
import type { Policy } from "../security/policy.ts";
import { Breather } from "../rdma/breather.ts";
import type { Admission, MessageClientPlace } from "../session/admission.ts";
import type { Omitted } from "../session/counted_reports.ts";
import type { Limits } from "../session/limits.ts";
import { FRAGMENT_BYTES } from "../session/messenger.ts";
import { SessionAudit } from "../session/session_audit.ts";
import { SessionClient } from "../session/session_client.ts";
import type { TokenBucket } from "../session/token_bucket.ts";
import { noUsage, type ServiceUsage } from "../session/usage.ts";
import { logger } from "../telemetry/log.ts";
import { endpointText, type IncomingConnection, type TlsConnection } from "../tls/connection.ts";
import { handshakeTimeout } from "../tls/failure.ts";
import type { CheckRevocation } from "../tls/revocation.ts";
import { answerTo, RequestBuffer } from "./plain_messages.ts";

const log = logger("messages");

/** Bytes handed to TLS at once: a slow client that reads so many is not silent. */
const PART_BYTES = 65536;

/** Milliseconds after which a client that has to wait is looked at again: the server may stop. */
const LONGEST_WAIT = 500;

/** What all connections of a message server share. */
export interface MessageServerContext {
  readonly limits: Limits;
  readonly admission: Admission;
  /** The policy in force, asked for each client anew; without it all may ask. */
  readonly policy?: () => Policy;
  /** Where security events are recorded, if anywhere. */
  readonly audit?: Audit | undefined;
  /** Throws a TlsError if the certificate that a client has shown is revoked. */
  readonly checkRevocation?: CheckRevocation;
}

/** One plain TLS client, from its TCP connection to its one log line. */
export class MessageConnection {
  readonly #context: MessageServerContext;
  readonly #incoming: IncomingConnection;
  readonly #client = new SessionClient();
  readonly #audit: SessionAudit;
  readonly #admitted = new DisposableStack();
  #place: MessageClientPlace | undefined;
  #tls: TlsConnection | undefined;
  /** Nothing is owed to the client: every request that it has finished is answered. */
  #waiting = false;
  #accepted = false;
  readonly #usage = noUsage();
  #lastActive = performance.now();
  #idleTimer: number | undefined;
  #drainTimer: number | undefined;
  #closing: Promise<void> | undefined;
  /** Why this side ended the connection. */
  #cut: VerbsealError | undefined;
  /** Ends with the connection what else is waited for. */
  readonly #cutting = new AbortController();

  constructor(context: MessageServerContext, incoming: IncomingConnection) {
    this.#context = context;
    this.#incoming = incoming;
    const peer = endpointText(incoming.peerAddress);
    this.#audit = new SessionAudit(context.audit, peer, this.#client);
  }

  /** What the client has asked so far. */
  get usage(): ServiceUsage {
    return this.#usage;
  }

  /** Serves the client. Never throws: whatever happens ends in one log line, unless there are too many. */
  async run(): Promise<void> {
    const peer = endpointText(this.#incoming.peerAddress);
    const started = performance.now();
    const why = await this.#outcome();
    await this.#end();
    if (!why) return;
    const { calls: requests, received, sent } = this.#usage;
    const calm = why.reason === "closed" || why.reason === "shutdown";
    log[calm ? "info" : "warning"]("message client gone", {
      peer,
      ...this.#client.fields,
      ...{ requests, received, sent },
      ...why,
      seconds: Number(((performance.now() - started) / 1000).toFixed(3)),
    });
    this.#audit.over(this.#accepted, why, requests > 0 ? { messages: this.#usage } : {});
  }

  /** Ends the connection once the requests that it has finished are answered, or after `seconds`. */
  stop(seconds: number): void {
    if (this.#closing) return;
    const why = this.#cut ??= new VerbsealError("shutdown", "the server is stopping");
    if (!this.#tls) this.#cutOff(why);
    else if (this.#waiting) this.#close(this.#tls);
    else this.#drainTimer = setTimeout(() => this.#cutOff(why), seconds * 1000);
  }

  /** Undefined for a limit that too many have hit. */
  async #outcome(): Promise<({ reason: string; detail?: string } & Omitted) | undefined> {
    try {
      await this.#serve(await this.#establish());
      return { reason: "closed" };
    } catch (error) {
      const why = this.#cut ?? error;
      const reason = why instanceof VerbsealError ? why.code : "internal";
      const action = this.#accepted ? "ended" : "refused";
      const omitted = why instanceof LimitError ? this.#limitHit(why.code, action) : {};
      // Who was accepted has a line of the end, too.
      if (!omitted && !this.#accepted) return undefined;
      return { reason, detail: errorText(why), ...omitted };
    }
  }

  /** Gives what to add to a log line; undefined when there have been too many. */
  #limitHit(limit: LimitName, action: "refused" | "ended" | "slowed"): Omitted | undefined {
    const omitted = this.#context.admission.reports.count(limit);
    if (omitted) this.#audit.note("limit", { limit, action, ...omitted });
    return omitted;
  }

  async #establish(): Promise<TlsConnection> {
    const { peerAddress } = this.#incoming;
    const { handshakeSeconds } = this.#context.limits;
    using _place = this.#context.admission.connection(peerAddress.hostname);
    const deadline = setTimeout(
      () => this.#cutOff(handshakeTimeout(peerAddress, handshakeSeconds)),
      handshakeSeconds * 1000,
    );
    try {
      const tls = this.#tls = await this.#incoming.handshake();
      await this.#admit(tls);
      return tls;
    } finally {
      clearTimeout(deadline);
    }
  }

  async #admit(tls: TlsConnection): Promise<void> {
    const { limits, admission, policy, checkRevocation } = this.#context;
    await this.#client.identify(tls.peerCertificates);
    await checkRevocation?.(tls, this.#cutting.signal);
    const services = this.#audit.decide(() =>
      this.#client.authorize(["messages"], ["messages"], policy?.())
    );
    const { hostname } = this.#incoming.peerAddress;
    this.#place = this.#admitted.use(
      admission.messageClient(hostname, this.#client.quota(limits.messageClientsPerAddress)),
    );
    await this.#audit.admitted(services);
    await this.#audit.record("accepted", { service: "messages" });
    this.#accepted = true;
  }

  get #owner(): string {
    return this.#client.owner(this.#incoming.peerAddress.hostname);
  }

  /** Answers requests until the client ends the connection, or the server stops. */
  async #serve(tls: TlsConnection): Promise<void> {
    const { limits: { messageBytes }, admission } = this.#context;
    const requests = new RequestBuffer(messageBytes, (change) => this.#place!.hold(change));
    const { rate } = this.#admitted.use(admission.messageRates.join(this.#owner));
    const breather = new Breather();
    this.#watchSilence(tls);
    while (!this.#cut) {
      this.#waiting = true;
      const count = await tls.read(requests.space());
      this.#waiting = false;
      if (count === null || this.#cut) break;
      this.#lastActive = performance.now();
      requests.filled(count);
      await this.#answer(tls, requests, rate);
      await this.#slowDown(rate);
      // A client that is quicker than this server never lets it wait for anything.
      if (breather.due()) await breather.breathe();
    }
    if (this.#cut) throw this.#cut;
    if (!requests.atBoundary) {
      throw new ProtocolError("message_cut_off", "the connection ended within a message");
    }
  }

  /** A client that asks too fast is not read from, and TCP makes it wait. */
  async #slowDown(rate: TokenBucket): Promise<void> {
    if (rate.wait === 0) return;
    const omitted = this.#limitHit("message_rate", "slowed");
    if (omitted) {
      const peer = endpointText(this.#incoming.peerAddress);
      log.warning("message client slowed down", { peer, ...this.#client.fields, ...omitted });
    }
    while (rate.wait > 0 && !this.#cut) {
      await delay(Math.min(rate.wait, LONGEST_WAIT));
      this.#lastActive = performance.now();
    }
  }

  /** Nothing more is read until all answers are written, so a client that reads none has to wait. */
  async #answer(tls: TlsConnection, requests: RequestBuffer, rate: TokenBucket): Promise<void> {
    const writing: Promise<void>[] = [];
    try {
      for (const request of requests.requests()) {
        rate.spend(Math.ceil(request.bytes.length / FRAGMENT_BYTES));
        const answer = answerTo(request, this.#usage);
        for (let at = 0; at < answer.length; at += PART_BYTES) {
          writing.push(tls.write(answer.subarray(at, at + PART_BYTES)));
          // Short answers leave together; of long ones no more than a part is under way.
          if (answer.length > PART_BYTES) await Promise.all(writing.splice(0));
          this.#lastActive = performance.now();
        }
      }
    } finally {
      await Promise.all(writing);
      this.#lastActive = performance.now();
    }
  }

  /** One timer that looks when silence may have lasted too long: traffic moves none. */
  #watchSilence(tls: TlsConnection): void {
    const { idleSeconds } = this.#context.limits;
    const left = this.#lastActive + idleSeconds * 1000 - performance.now();
    if (left > 0) {
      this.#idleTimer = setTimeout(() => this.#watchSilence(tls), left);
      return;
    }
    const what = this.#waiting ? "sent" : "read";
    const why = `the client has ${what} nothing for ${idleSeconds} seconds`;
    this.#cut ??= new TlsError("idle_timeout", why);
    if (this.#waiting) this.#close(tls);
    else tls.abort();
  }

  async #end(): Promise<void> {
    clearTimeout(this.#idleTimer);
    clearTimeout(this.#drainTimer);
    await (this.#tls ? this.#close(this.#tls) : this.#incoming.abort());
    this.#admitted.dispose();
  }

  #cutOff(why: VerbsealError): void {
    this.#cut ??= why;
    this.#cutting.abort(why);
    (this.#tls ?? this.#incoming).abort();
  }

  /** Closes so that what was written arrives; a read that waits ends then. */
  #close(tls: TlsConnection): Promise<void> {
    return this.#closing ??= tls.close();
  }
}
