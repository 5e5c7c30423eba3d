import { assert, assertEquals, assertRejects } from "@std/assert";
import { limitNames, RefusedError } from "../../lib/errors.ts";
import type { PortErrors } from "../../lib/rdma/device.ts";
import { type Audit, type AuditEntry, auditRefusal } from "../../lib/security/audit.ts";
import { Admission } from "../../lib/session/admission.ts";
import { defaultLimits } from "../../lib/session/limits.ts";
import { metricsOf, sourcesOf, valuesOf } from "./metrics.ts";

const nobody = sourcesOf(() => []);

async function counted(entry: AuditEntry, metric: string) {
  const metrics = metricsOf();
  await metrics.record(entry);
  return valuesOf(await metrics.text(nobody), metric).filter(({ value }) => value > 0);
}

for (
  const [entry, metric, labels] of [
    [{ event: "accepted", transport: "rdma" }, "clients_accepted", { transport: "rdma" }],
    [{ event: "accepted", service: "messages" }, "clients_accepted", { transport: "tls" }],
    [{ event: "refused", reason: "transport" }, "clients_refused", { reason: "transport" }],
    [{ event: "ended", reason: "bye" }, "clients_ended", { reason: "bye" }],
    [{ event: "recovery", epoch: 1 }, "recoveries", { what: "queue_pair" }],
    [{ event: "recovery", operation: "put", path: "x" }, "recoveries", { what: "transfer" }],
    [
      { event: "service", service: "files", operation: "get", result: "ENOENT" },
      "service_failures",
      { service: "files", reason: "ENOENT" },
    ],
  ] as const
) {
  Deno.test(`${JSON.stringify(entry)} counts for ${metric}`, async () => {
    assertEquals(await counted(entry, `verbseal_${metric}_total`), [{ labels, value: 1 }]);
  });
}

Deno.test("a connection that hits a limit counts for that, and not for what few lines tell", async () => {
  const admission = new Admission({ ...defaultLimits, connectionsPerSecond: 1 });
  const metrics = metricsOf(undefined, admission);
  admission.reports.count("connection_rate");
  admission.reports.count("connection_rate");
  await metrics.record({ event: "refused", reason: "connection_rate" });
  const text = await metrics.text(nobody);
  assertEquals(valuesOf(text, "verbseal_clients_refused_total"), []);
  const hit = valuesOf(text, "verbseal_limits_hit_total").filter(({ value }) => value > 0);
  assertEquals(hit, [{ labels: { limit: "connection_rate" }, value: 2 }]);
});

Deno.test("a call that succeeded is no failure", async () => {
  const entry = { event: "service", service: "files", result: "done" } as const;
  assertEquals(await counted(entry, "verbseal_service_failures_total"), []);
});

Deno.test("what can be counted as an attack is there before, as 0", async () => {
  const text = await metricsOf().text(nobody);
  for (const reason of ["record_forged", "record_replayed", "proof"]) {
    const failures = valuesOf(text, "verbseal_integrity_failures_total");
    assertEquals(failures.find(({ labels }) => labels["reason"] === reason)?.value, 0);
  }
  const limits = valuesOf(text, "verbseal_limits_hit_total");
  assertEquals(limits.map(({ value }) => value), limitNames.map(() => 0));
});

Deno.test("what others count is not added up", async () => {
  const metrics = metricsOf();
  const sources = {
    ...nobody,
    integrityFailures: () => ({ record_forged: 2 }),
    usage: () => Promise.resolve({ files: { calls: 3, received: 5, sent: 7 } }),
    tlsHandshakes: () => [{ full: 10, resumed: 13, failed: 17 }, undefined, {
      ...{ full: 1, resumed: 0, failed: 0 },
    }],
  };
  await metrics.text(sources);
  const text = await metrics.text(sources);
  const [failures] = valuesOf(text, "verbseal_integrity_failures_total");
  assertEquals(failures, { labels: { reason: "record_forged" }, value: 2 });
  for (const [metric, value] of [["service_calls", 3], ["received_bytes", 5], ["sent_bytes", 7]]) {
    assertEquals(valuesOf(text, `verbseal_${metric}_total`), [
      { labels: { service: "files" }, value: Number(value) },
    ]);
  }
  const handshakes = valuesOf(text, "verbseal_tls_handshakes_total");
  assertEquals(handshakes.map(({ labels, value }) => [labels["kind"], value]), [
    ["full", 11],
    ["resumed", 13],
    ["failed", 17],
  ]);
});

Deno.test("a port that two workers use is counted once", async () => {
  const port: PortErrors = { name: "rxe0/1", older: true, counters: { out_of_sequence: 4 } };
  const text = await metricsOf().text(sourcesOf(() => [port, port]));
  assertEquals(valuesOf(text, "verbseal_port_errors_total"), [
    { labels: { port: "rxe0/1", counter: "out_of_sequence" }, value: 4 },
  ]);
});

Deno.test("an audit log has all that is counted, and says when it fails", async () => {
  const recorded: AuditEntry[] = [];
  let failing = false;
  const log: Audit = {
    record(entry) {
      recorded.push(entry);
      return failing ? Promise.reject(auditRefusal()) : Promise.resolve();
    },
    get failing() {
      return failing;
    },
  };
  const metrics = metricsOf(log);
  const entry = { event: "accepted", transport: "rdma", peer: "192.0.2.1:1" } as const;
  await metrics.record(entry);
  assertEquals(recorded, [entry]);
  assert(!metrics.failing);
  failing = true;
  await assertRejects(() => metrics.record(entry), RefusedError);
  assert(metrics.failing);
  assertEquals(valuesOf(await metrics.text(nobody), "verbseal_audit_failing")[0]?.value, 1);
});

Deno.test("no metric names a client or a file", async () => {
  const metrics = metricsOf();
  const secret = { peer: "192.0.2.1:99", identity: "CN=somebody", session: "abc", path: "a/file" };
  for (const event of ["accepted", "refused", "ended", "recovery", "service", "limit"] as const) {
    await metrics.record({ event, reason: "r", service: "files", result: "x", ...secret });
  }
  const text = await metrics.text(nobody);
  for (const word of Object.values(secret)) assert(!text.includes(word), word);
});
