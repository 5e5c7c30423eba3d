import type { LimitName } from "../errors.ts";
import { type SessionUsage, sumOfUsage } from "../session/usage.ts";
import { logger } from "../telemetry/log.ts";
import { endpointText, type IncomingConnection, type TlsListener } from "../tls/connection.ts";
import { MessageConnection, type MessageServerContext } from "./message_connection.ts";

const log = logger("messages");

/** Serves messages to plain TLS clients, until it is told to stop. */
export class MessageServer {
  readonly #listener: TlsListener;
  readonly #context: MessageServerContext;
  readonly #connections = new Map<MessageConnection, Promise<void>>();
  /** What clients have asked that are gone. */
  #formerUsage: SessionUsage = {};

  /** @param listener asks for no protocol: plain clients offer none */
  constructor(listener: TlsListener, context: MessageServerContext) {
    this.#listener = listener;
    this.#context = context;
  }

  /** What all clients have asked since the start. */
  get usage(): SessionUsage {
    const present = [...this.#connections.keys()].map(({ usage }) => ({ messages: usage }));
    return present.reduce<SessionUsage>(sumOfUsage, this.#formerUsage);
  }

  /** Runs until the signal aborts; then accepts no more, and lets requests be answered. */
  async run(signal: AbortSignal): Promise<void> {
    const stop = () => this.#listener.close();
    signal.addEventListener("abort", stop, { once: true });
    if (signal.aborted) stop();
    for await (const incoming of this.#listener) this.#take(incoming);
    const running = [...this.#connections];
    for (const [connection] of running) connection.stop(this.#context.limits.drainSeconds);
    await Promise.all(running.map(([, ended]) => ended));
    const { handshakes } = this.#listener;
    log.info("stopped", handshakes ? { handshakes: { ...handshakes } } : {});
  }

  #take(incoming: IncomingConnection): void {
    const { messageClients } = this.#context.limits;
    if (this.#connections.size >= messageClients) {
      const peer = endpointText(incoming.peerAddress);
      incoming.abort();
      const reason: LimitName = "message_clients";
      const omitted = this.#context.admission.reports.count(reason);
      if (!omitted) return;
      const detail = `the server has its ${messageClients} message clients`;
      const outcome = { reason, detail, ...omitted };
      log.warning("message client refused", { peer, ...outcome });
      this.#context.audit?.record({ event: "limit", peer, ...outcome }).catch(() => {});
      return;
    }
    const connection = new MessageConnection(this.#context, incoming);
    const ended = connection.run().finally(() => {
      this.#connections.delete(connection);
      this.#formerUsage = sumOfUsage(this.#formerUsage, { messages: connection.usage });
    });
    this.#connections.set(connection, ended);
  }
}
