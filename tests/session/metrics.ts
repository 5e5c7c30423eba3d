/** What tests have in common that look at metrics. */
import type { PortErrors } from "../../lib/rdma/device.ts";
import type { Audit } from "../../lib/security/audit.ts";
import { Admission } from "../../lib/session/admission.ts";
import { defaultLimits } from "../../lib/session/limits.ts";
import { type MetricSources, ServerMetrics } from "../../lib/session/server_metrics.ts";

/** A line of a metric. */
export interface Sample {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** The lines of one metric, in Prometheus' text format. */
export function valuesOf(text: string, metric: string): Sample[] {
  return text.split("\n").flatMap((line) => {
    const [, name, labels = "", value] = /^(\w+)(?:{(.*)})? (\S+)$/.exec(line) ?? [];
    if (name !== metric) return [];
    const pairs = [...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)];
    return [{
      labels: Object.fromEntries(pairs.map(([, label, text]) => [label!, text!])),
      value: Number(value),
    }];
  });
}

/** Metrics of a server that has nobody yet. */
export function metricsOf(log?: Audit, admission = new Admission(defaultLimits)): ServerMetrics {
  return new ServerMetrics("1.0.0", admission, log);
}

/** Sources of a server that has nobody, with these ports. */
export function sourcesOf(portErrors: () => PortErrors[]): MetricSources {
  return {
    integrityFailures: () => ({}),
    usage: () => Promise.resolve({}),
    portErrors: () => Promise.resolve(portErrors()),
    tlsHandshakes: () => [],
  };
}
