import { assert, assertEquals } from "@std/assert";
import { listSharedCounters } from "../../lib/rdma/roce/shared_counters.ts";
import { LocalDataPath } from "../../lib/session/local_data_path.ts";
import { WorkerHost } from "../../lib/session/worker_host.ts";
import type { WorkerReport } from "../../lib/session/worker_messages.ts";

/** Embedded ports that this process has open. */
function openPorts(): number {
  return listSharedCounters().filter(({ pid }) => pid === Deno.pid).length;
}

/**
 * Has a session on each of many addresses, one after the other; few devices may be left, and none
 * in the end.
 *
 * @returns what the host has reported meanwhile
 */
async function visitAddresses(network: string): Promise<WorkerReport[]> {
  const reports: WorkerReport[] = [];
  const host = new WorkerHost(() => [], (report) => reports.push(report));
  const before = openPorts();
  const addresses = Array.from({ length: 40 }, (_, index) => `${network}.${index + 1}`);
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
  const kept = openPorts() - before;
  assert(kept > 0 && kept < 20, `${kept} are open`);
  await host.take({ call: 4, session: 0, method: "stop", args: [] });
  assertEquals(openPorts(), before);
  return reports;
}

// Libraries stay loaded, and the thread's wait for its sockets outlives a test by a moment.
const leaving = { sanitizeOps: false, sanitizeResources: false };

Deno.test({
  name: "however many addresses clients reach, few devices stay open for them, and none in the end",
  ...leaving,
  async fn() {
    const reports = await visitAddresses("127.0.50");
    assertEquals(reports.filter((report) => "error" in report), []);
  },
});

Deno.test({
  name: "a session that cannot be closed keeps no device open",
  ...leaving,
  async fn() {
    const { close } = LocalDataPath.prototype;
    LocalDataPath.prototype.close = async function (reason) {
      await close.call(this, reason);
      throw new Error("the device does not answer");
    };
    try {
      const reports = await visitAddresses("127.0.51");
      assertEquals(reports.filter((report) => "error" in report).length, 40);
    } finally {
      LocalDataPath.prototype.close = close;
    }
  },
});
