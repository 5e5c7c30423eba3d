import { assert, assertEquals } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { Memory } from "../../ffi/memory.ts";
import type { Access } from "../../lib/rdma/memory_region.ts";
import { Opcode, SendFlag } from "../../lib/rdma/work_request.ts";
import { assertHeld, heldResources } from "../program.ts";
import { ReliablePair, verbsTest } from "../rdma/resources.ts";

/** What a window is bound to: no rights but that. */
const beneath: readonly Access[] = ["LOCAL_WRITE", "MW_BIND"];

verbsTest("a region beneath a window has no key by which the peer reaches it", async () => {
  for (const key of ["rkey", "lkey"] as const) {
    using pair = new ReliablePair();
    const { server, client } = pair;
    using memory = new Memory(4096);
    using region = server.protectionDomain.registerMemory(memory, beneath);
    using memoryWindow = server.protectionDomain.allocateMemoryWindow!();
    memoryWindow.prepareBind(server.sends, 0, 0, region, "REMOTE_WRITE");
    server.queuePair.postSend(server.sends);
    await server.succeeded();
    client.sends.prepare(0, 0, Opcode.WRITE, SendFlag.SIGNALED)
      .buffer(0, client.region.address, 1, client.region.lkey)
      .remote(0, region.address, region[key]);
    client.queuePair.postSend(client.sends);
    assertEquals(await client.status(), "IBV_WC_REM_ACCESS_ERR", key);
  }
});

verbsTest(
  "a window that is not bound opens nothing, nor one that was bound on a queue pair that failed",
  async () => {
    using pair = new ReliablePair();
    const { server, client } = pair;
    using memory = new Memory(4096);
    const region = server.protectionDomain.registerMemory(memory, beneath);
    const memoryWindow = server.protectionDomain.allocateMemoryWindow!();
    client.sends.prepare(0, 0, Opcode.WRITE, SendFlag.SIGNALED)
      .buffer(0, client.region.address, 1, client.region.lkey)
      .remote(0, region.address, memoryWindow.rkey);
    client.queuePair.postSend(client.sends);
    assertEquals(await client.status(), "IBV_WC_REM_ACCESS_ERR");
    server.queuePair.modify({ state: "ERR" });
    memoryWindow.prepareBind(server.sends, 0, 0, region, "REMOTE_WRITE");
    server.queuePair.postSend(server.sends);
    assertEquals(await server.status(), "IBV_WC_WR_FLUSH_ERR");
    memoryWindow[Symbol.dispose]();
    region[Symbol.dispose]();
  },
);

/** Those of granting.ts. */
const WINDOWS = 16;

/** What `rdma resource show` has of a kind, a line for each object. */
async function listed(kind: "pd" | "mr" | "qp"): Promise<string> {
  const { stdout } = await new Deno.Command("rdma", { args: ["resource", "show", kind] }).output();
  return new TextDecoder().decode(stdout);
}

/**
 * Memory windows of all processes. The kernel lists none, but counts what uses a protection domain,
 * and lists all else of that: what remains beside the kernel's own are windows.
 */
async function windowsHeld(): Promise<number> {
  const [domains, regions, queuePairs] = await Promise.all([
    listed("pd"),
    listed("mr"),
    listed("qp"),
  ]);
  const users = [...domains.matchAll(/ users (\d+)/g)];
  const others = [...`${regions}${queuePairs}`.matchAll(/ pdn \d+/g)];
  return users.reduce((sum, [, count]) => sum + Number(count), 0) - others.length;
}

verbsTest("a process that is killed with windows bound leaves nothing in the kernel", async () => {
  const before = await heldResources();
  const windows = await windowsHeld();
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", "--cached-only", "tests/vm/granting.ts"],
    stdin: "null",
    stdout: "piped",
  }).spawn();
  const reader = child.stdout.getReader();
  const { value } = await deadline(reader.read(), 60_000);
  assertEquals(new TextDecoder().decode(value), "granted\n");
  const held = await heldResources();
  assert(held["mr"]! >= before["mr"]! + WINDOWS, JSON.stringify(held));
  assertEquals(await windowsHeld(), windows + WINDOWS);
  child.kill("SIGKILL");
  await deadline(child.status, 5000);
  await reader.cancel();
  await assertHeld(before);
  assertEquals(await windowsHeld(), windows);
});
