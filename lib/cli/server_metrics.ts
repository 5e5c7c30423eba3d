import type { Command } from "commander";
import ipaddr from "ipaddr.js";
import type { Audit } from "../security/audit.ts";
import type { Admission } from "../session/admission.ts";
import type { MetricSources, ServerMetrics } from "../session/server_metrics.ts";
import { logger } from "../telemetry/log.ts";
import { type Endpoint, endpointText } from "../tls/connection.ts";
import { closeQuietly, endpointOf, listenFailure } from "../tls/tcp.ts";
import { MetricsListener } from "./metrics_listener.ts";
import { type ListenAddress, listenAddress } from "./values.ts";
import { version } from "./version.ts";

const log = logger("metrics");

/** Where metrics are served unless another address is named: what the host's own programs reach. */
const LOOPBACK = "127.0.0.1";

/** What the option of a server's metrics leaves. */
export interface ServerMetricsOptions {
  readonly metricsListen?: ListenAddress;
}

/** Adds the option of a server's metrics to its command. */
export function addServerMetricsOption(command: Command): Command {
  return command.option(
    "--metrics-listen <address>",
    `serve metrics for Prometheus by plain HTTP there, at /metrics: :PORT on ${LOOPBACK}`,
    listenAddress,
  );
}

/** Where a server's metrics are to be served. */
export class MetricsPort {
  private constructor(
    private readonly listener: Deno.TcpListener,
    private readonly Metrics: typeof ServerMetrics,
  ) {}

  /**
   * Listens, if the server is to have metrics; requests wait for {@linkcode serve}.
   *
   * @param stack closes the port
   * @throws VerbsealError when the address cannot be had
   */
  static async open(
    { metricsListen }: ServerMetricsOptions,
    stack: DisposableStack,
  ): Promise<MetricsPort | undefined> {
    if (!metricsListen) return undefined;
    // The library is loaded for who wants metrics: clients start faster without.
    const { ServerMetrics } = await import("../session/server_metrics.ts");
    const endpoint = { hostname: LOOPBACK, ...metricsListen };
    const port = new MetricsPort(listenAt(endpoint), ServerMetrics);
    stack.defer(() => closeQuietly(port.listener));
    if (!isLoopback(port.address.hostname)) {
      log.warning("whoever reaches this address can read metrics: they are served without TLS", {
        address: endpointText(port.address),
        remedy: "let a firewall pass who collects them alone, or serve them on loopback (:PORT)",
      });
    }
    return port;
  }

  get address(): Endpoint {
    return endpointOf(this.listener.addr);
  }

  /** Metrics that count what is recorded, and pass it to the audit log, if there is one. */
  metrics(admission: Admission, audit: Audit | undefined): ServerMetrics {
    return new this.Metrics(version, admission, audit);
  }

  /** Answers requests until it is disposed. */
  serve(metrics: ServerMetrics, sources: MetricSources): AsyncDisposable {
    return new MetricsListener(
      this.listener,
      metrics.contentType,
      () => metrics.text(sources),
    );
  }
}

function listenAt(endpoint: Endpoint): Deno.TcpListener {
  try {
    return Deno.listen(endpoint);
  } catch (error) {
    throw listenFailure(endpoint, error);
  }
}

function isLoopback(address: string): boolean {
  return ipaddr.process(address).range() === "loopback";
}
