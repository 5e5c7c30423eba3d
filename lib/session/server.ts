import { logger } from "../telemetry/log.ts";
import type { TlsListener } from "../tls/connection.ts";
import { CountedReports } from "./counted_reports.ts";
import type { ServerContext } from "./server_context.ts";
import { ServerSession, type SessionReports } from "./server_session.ts";

const log = logger("server");

/** Accepts clients and keeps their sessions, until it is told to stop. */
export class Server {
  readonly #sessions = new Map<ServerSession, Promise<void>>();
  readonly #reports: SessionReports = {
    integrityFailures: new CountedReports(),
    userSpaceTls: new CountedReports(),
  };

  constructor(
    private readonly listener: TlsListener,
    private readonly context: ServerContext,
  ) {}

  /** Sessions that ended as something was not what their client had sent, by the error's code. */
  get integrityFailures(): Record<string, number> {
    return this.#reports.integrityFailures.counts;
  }

  /** Runs until the signal aborts; then accepts no more, lets sessions finish, and ends them. */
  async run(signal: AbortSignal): Promise<void> {
    const accepting = this.#accept();
    if (!signal.aborted) {
      await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
    }
    this.listener.close();
    await accepting;
    await this.#drain();
  }

  async #accept(): Promise<void> {
    for await (const incoming of this.listener) {
      const session = new ServerSession(this.context, incoming, this.#reports);
      this.#sessions.set(session, session.run().finally(() => this.#sessions.delete(session)));
    }
  }

  async #drain(): Promise<void> {
    const running = [...this.#sessions];
    log.info("stopping", { sessions: running.length });
    const { drainSeconds } = this.context.limits;
    await Promise.all(running.map(([session]) => session.stop(drainSeconds)));
    await Promise.all(running.map(([, ended]) => ended));
    const { handshakes } = this.listener;
    const { counts } = this.context.admission.reports;
    const integrity = this.integrityFailures;
    log.info("stopped", {
      ...(handshakes ? { handshakes: { ...handshakes } } : {}),
      ...(isEmpty(counts) ? {} : { limits: counts }),
      ...(isEmpty(integrity) ? {} : { integrity }),
    });
  }
}

function isEmpty(counts: Readonly<Record<string, number>>): boolean {
  return Object.keys(counts).length === 0;
}
