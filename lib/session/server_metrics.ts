import process from "node:process";
import { Counter, Gauge, Registry } from "prom-client";
import { limitNames } from "../errors.ts";
import type { PortErrors } from "../rdma/device.ts";
import type { Audit, AuditEntry } from "../security/audit.ts";
import type { HandshakeCounts } from "../tls/connection.ts";
import type { Admission } from "./admission.ts";
import type { ServiceUsage, SessionUsage } from "./usage.ts";

/** What a server knows of itself, looked at when metrics are asked for. */
export interface MetricSources {
  /** Sessions that ended as something was not what their client had sent, by the error's code. */
  readonly integrityFailures: () => Readonly<Record<string, number>>;
  /** What services have done since the server's start, in sessions and for plain TLS clients. */
  readonly usage: () => Promise<SessionUsage>;
  /** Of all ports in use; a port may come more than once. */
  readonly portErrors: () => Promise<readonly PortErrors[]>;
  /** Of each port that the server listens on; undefined where the TLS library does not tell. */
  readonly tlsHandshakes: () => readonly (HandshakeCounts | undefined)[];
}

/** There from the start, as 0: an alert on growth does not see a series that begins with 1. */
const LIMITS = zeros(limitNames);
const INTEGRITY_FAILURES = zeros([
  ...["record_forged", "record_replayed", "record_out_of_order"],
  ...["proof", "join_token", "psn_not_as_agreed"],
]);
const TRANSPORTS = ["rdma", "ktls", "tls"];
const RECOVERED = ["queue_pair", "transfer"];

/**
 * A server's metrics, in Prometheus' terms. What becomes of clients is counted as it is
 * recorded, the rest is looked at when metrics are asked for. None
 * names a client, a file or a key.
 */
export class ServerMetrics implements Audit {
  readonly #registry = new Registry();
  readonly #sessions = this.#gauge("sessions", "Sessions at present.");
  readonly #messageClients = this.#gauge(
    "message_clients",
    "Clients at present of the message service for plain TLS clients.",
  );
  readonly #handshakes = this.#gauge(
    "handshakes",
    "Connections at present that have not finished the exchange.",
  );
  readonly #registered = this.#gauge(
    "registered_bytes",
    "Bytes set aside at present for memory that sessions register.",
  );
  readonly #auditFailing = this.#gauge(
    "audit_failing",
    "1 while the audit log cannot be written, and nobody new is let in.",
  );
  readonly #accepted = this.#counter(
    "clients_accepted_total",
    "Clients that were let in; transport tls: plain TLS clients of the message service.",
    "transport",
  );
  readonly #refused = this.#counter(
    "clients_refused_total",
    "Connections that came to no session, by why; those that hit a limit are not among them.",
    "reason",
  );
  readonly #ended = this.#counter(
    "clients_ended_total",
    "Clients that were in and have left, by why.",
    "reason",
  );
  readonly #limits = this.#counter(
    "limits_hit_total",
    "Times that clients were refused, slowed down or ended by a limit; of a session that its " +
      "messages or grants slow down one a second.",
    "limit",
  );
  readonly #integrity = this.#counter(
    "integrity_failures_total",
    "Sessions that the server ended as something was not what their client had sent.",
    "reason",
  );
  readonly #recoveries = this.#counter(
    "recoveries_total",
    "Queue pairs that were replaced, and transfers that went on where they were.",
    "what",
  );
  readonly #calls = this.#counter(
    "service_calls_total",
    "Questions, transfers and grants, be it that they failed.",
    "service",
  );
  readonly #failures = this.#counter(
    "service_failures_total",
    "Transfers and grants that were refused or failed, by why.",
    ...["service", "reason"],
  );
  readonly #received = this.#counter(
    "received_bytes_total",
    "Bytes of clients: of questions, of files put, of memory granted to be written.",
    "service",
  );
  readonly #sent = this.#counter(
    "sent_bytes_total",
    "Bytes for clients: of answers, of files got, of memory granted to be read.",
    "service",
  );
  readonly #portErrors = this.#counter(
    "port_errors_total",
    "What ports have counted that an honest and quick peer does not cause; a device's own counters " +
      "are older than the server.",
    ...["port", "counter"],
  );
  readonly #tlsHandshakes = this.#counter(
    "tls_handshakes_total",
    "TLS handshakes, where libssl makes them.",
    "kind",
  );

  /**
   * @param version of the program
   * @param admission tells who is there, and which limits were hit
   * @param log of what is recorded, if there is one
   */
  constructor(
    version: string,
    private readonly admission: Admission,
    private readonly log: Audit | undefined,
  ) {
    for (const transport of TRANSPORTS) this.#accepted.inc({ transport }, 0);
    for (const what of RECOVERED) this.#recoveries.inc({ what }, 0);
    this.#gauge("build_info", "1; the label tells the version.", "version").set({ version }, 1);
    this.#ofProcess();
  }

  /** Media type of {@linkcode text}. */
  get contentType(): string {
    return this.#registry.contentType;
  }

  get failing(): boolean {
    return this.log?.failing ?? false;
  }

  /** Counts an event, and passes it to the log. */
  async record(entry: AuditEntry): Promise<void> {
    this.#count(entry);
    await this.log?.record(entry);
  }

  /** All metrics, as they are now. */
  async text(sources: MetricSources): Promise<string> {
    const [usage, ports] = await Promise.all([sources.usage(), sources.portErrors()]);
    this.#takeState(sources);
    this.#takeUsage(usage);
    this.#takePortErrors(ports);
    return await this.#registry.metrics();
  }

  #count({ event, ...fields }: AuditEntry): void {
    const field = (name: string) => String(fields[name]);
    switch (event) {
      case "accepted":
        return this.#accepted.inc({ transport: fields["transport"] ? field("transport") : "tls" });
      case "refused":
        // Of these few get an entry; they are counted where limits are.
        if (field("reason") in LIMITS) return;
        return this.#refused.inc({ reason: field("reason") });
      case "ended":
        return this.#ended.inc({ reason: field("reason") });
      case "recovery":
        return this.#recoveries.inc({ what: fields["operation"] ? "transfer" : "queue_pair" });
      case "service":
        if (fields["result"] === "done") return;
        return this.#failures.inc({ service: field("service"), reason: field("result") });
    }
  }

  #takeState({ integrityFailures, tlsHandshakes }: MetricSources): void {
    const { admission } = this;
    this.#sessions.set(admission.sessions);
    this.#messageClients.set(admission.messageClients);
    this.#handshakes.set(admission.handshakes);
    this.#registered.set(admission.registeredBytes);
    this.#auditFailing.set(Number(this.failing));
    take(this.#limits, "limit", { ...LIMITS, ...admission.reports.counts });
    take(this.#integrity, "reason", { ...INTEGRITY_FAILURES, ...integrityFailures() });
    this.#tlsHandshakes.reset();
    for (const counts of tlsHandshakes()) {
      for (const [kind, count] of Object.entries(counts ?? {})) {
        this.#tlsHandshakes.inc({ kind }, count);
      }
    }
  }

  #takeUsage(usage: SessionUsage): void {
    const of = (count: keyof ServiceUsage) =>
      Object.fromEntries(Object.entries(usage).map(([service, done]) => [service, done[count]]));
    take(this.#calls, "service", of("calls"));
    take(this.#received, "service", of("received"));
    take(this.#sent, "service", of("sent"));
  }

  #takePortErrors(ports: readonly PortErrors[]): void {
    this.#portErrors.reset();
    // A device of libibverbs comes once for each worker.
    for (const { name, counters } of new Map(ports.map((port) => [port.name, port])).values()) {
      for (const [counter, value] of Object.entries(counters)) {
        this.#portErrors.inc({ port: name, counter }, value);
      }
    }
  }

  /**
   * What Prometheus' own libraries tell of a process. prom-client's would read it from /proc, which
   * is closed to the executable, and watch Node.js besides, a hundred times a second.
   */
  #ofProcess(): void {
    const registers = [this.#registry];
    new Gauge({
      name: "process_start_time_seconds",
      help: "Start of the process, in seconds since 1970.",
      registers,
    }).set(performance.timeOrigin / 1000);
    new Counter({
      name: "process_cpu_seconds_total",
      help: "Processor time of the process, in seconds.",
      registers,
      collect() {
        const { user, system } = process.cpuUsage();
        this.reset();
        this.inc((user + system) / 1e6);
      },
    });
    new Gauge({
      name: "process_resident_memory_bytes",
      help: "Resident memory of the process.",
      registers,
      collect() {
        this.set(Deno.memoryUsage().rss);
      },
    });
    new Gauge({
      name: "process_open_fds",
      help: "Files that the process has open.",
      registers,
      collect() {
        this.set([...Deno.readDirSync("/proc/self/fd")].length);
      },
    });
  }

  #gauge(name: string, help: string, ...labelNames: string[]): Gauge {
    return new Gauge({ name: `verbseal_${name}`, help, labelNames, registers: [this.#registry] });
  }

  #counter(name: string, help: string, ...labelNames: string[]): Counter {
    return new Counter({ name: `verbseal_${name}`, help, labelNames, registers: [this.#registry] });
  }
}

function zeros(names: readonly string[]): Readonly<Record<string, number>> {
  return Object.fromEntries(names.map((name) => [name, 0]));
}

/** Sets a metric to what others have counted. */
function take(counter: Counter, label: string, counts: Readonly<Record<string, number>>): void {
  counter.reset();
  for (const [value, count] of Object.entries(counts)) counter.inc({ [label]: value }, count);
}
