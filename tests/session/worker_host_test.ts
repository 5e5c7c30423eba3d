import { assert, assertEquals } from "@std/assert";
import { listSharedCounters } from "../../lib/rdma/roce/shared_counters.ts";
import { WorkerHost } from "../../lib/session/worker_host.ts";
import type { WorkerReport } from "../../lib/session/worker_messages.ts";

/** Embedded ports that this process has open. */
function openPorts(): number {
  return listSharedCounters().filter(({ pid }) => pid === Deno.pid).length;
}

// Libraries stay loaded, and the thread's wait for its sockets outlives a test by a moment.
Deno.test({
  name: "however many addresses clients reach, few devices stay open for them, and none in the end",
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    const reports: WorkerReport[] = [];
    const host = new WorkerHost(() => [], (report) => reports.push(report));
    const before = openPorts();
    const addresses = Array.from({ length: 40 }, (_, index) => `127.0.50.${index + 1}`);
    for (const [session, address] of addresses.entries()) {
      const options = {
        port: {
          provider: "roce",
          device: `roce:${address}`,
          room: 1024,
          port: 1,
          gid: `::ffff:${address}`,
          gidIndex: 0,
          gidType: "RoCE v2",
          lid: 0,
          mtu: 1024,
        },
        peerProvider: "roce",
        side: "server",
        messageBytes: 4096,
        services: [],
      } as const;
      await host.take({ call: 1, session, method: "open", args: [options, true] });
      await host.take({ call: 2, session, method: "allocate", args: [] });
      await host.take({ call: 3, session, method: "close", args: [] });
    }
    assertEquals(reports.filter((report) => "error" in report), []);
    const kept = openPorts() - before;
    assert(kept > 0 && kept < 20, `${kept} are open`);
    await host.take({ call: 4, session: 0, method: "stop", args: [] });
    assertEquals(openPorts(), before);
  },
});
