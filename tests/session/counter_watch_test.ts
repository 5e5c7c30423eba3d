import { assertEquals } from "@std/assert";
import type { PortErrors } from "../../lib/rdma/device.ts";
import type { AuditEntry } from "../../lib/security/audit.ts";
import { CounterWatch } from "../../lib/session/counter_watch.ts";
import { CapturedLog } from "../telemetry/captured_log.ts";

/** What is recorded of looks at these counters, one after the other. */
async function recorded(...looks: PortErrors[][]): Promise<AuditEntry[]> {
  const entries: AuditEntry[] = [];
  const audit = {
    record: (entry: AuditEntry) => {
      entries.push(entry);
      return Promise.resolve();
    },
  };
  const done = Promise.withResolvers<void>();
  const look = () => {
    if (looks.length === 1) done.resolve();
    return Promise.resolve(looks.shift() ?? []);
  };
  await using _watch = new CounterWatch(look, audit, 1);
  await done.promise;
  return entries;
}

function port(counters: Record<string, number>, name = "roce:10.0.0.1", older = false): PortErrors {
  return { name, older, counters };
}

Deno.test("what ports have counted more than at the last look is logged and recorded", async () => {
  using captured = new CapturedLog();
  const entries = await recorded(
    [port({ icrc_errors: 2, malformed_packets: 0 })],
    [port({ icrc_errors: 2, malformed_packets: 0 })],
    [port({ icrc_errors: 5, malformed_packets: 1 }), port({ icrc_errors: 1 }, "other")],
    [port({ icrc_errors: 5, malformed_packets: 1 })],
  );
  assertEquals(entries, [
    { event: "counters", port: "roce:10.0.0.1", moved: { icrc_errors: 2 } },
    { event: "counters", port: "roce:10.0.0.1", moved: { icrc_errors: 3, malformed_packets: 1 } },
    { event: "counters", port: "other", moved: { icrc_errors: 1 } },
  ]);
  assertEquals(captured.lines("port"), [
    "warning a port has counted errors roce:10.0.0.1",
    "warning a port has counted errors roce:10.0.0.1",
    "warning a port has counted errors other",
  ]);
});

Deno.test("what a NIC has counted before the server came does not count, nor twice for two workers", async () => {
  using _captured = new CapturedLog();
  const nic = (value: number) => port({ out_of_sequence: value }, "mlx5_0:1", true);
  const entries = await recorded([nic(7), nic(7)], [nic(9), nic(9)]);
  assertEquals(entries.map(({ moved }) => moved), [{ out_of_sequence: 2 }]);
});

Deno.test("a port that began anew counts from zero", async () => {
  using _captured = new CapturedLog();
  const entries = await recorded([port({ icrc_errors: 5 })], [port({ icrc_errors: 1 })]);
  assertEquals(entries.map(({ moved }) => moved), [{ icrc_errors: 5 }, { icrc_errors: 1 }]);
});

Deno.test("what losses and load move as well is recorded, and no warning", async () => {
  using captured = new CapturedLog();
  await recorded([port({ duplicate_request: 1, local_ack_timeout_err: 4 })]);
  assertEquals(captured.lines(), ["info a port has counted errors"]);
});
