/** Attacks on what is left of an attack: what is noticed of it, and what is on record. */
import { IntegrityError } from "../../lib/errors.ts";
import type { Device, PortErrors } from "../../lib/rdma/device.ts";
import type { AuditEntry } from "../../lib/security/audit.ts";
import { CounterWatch } from "../../lib/session/counter_watch.ts";
import { provider } from "../provider.ts";
import { AuditScene } from "../security/audit_scene.ts";
import { attackTest } from "./attack.ts";
import { grant, read } from "./lent_memory.ts";
import { System } from "./system.ts";

// What a device counts is its driver's.
if (provider.name === "roce") {
  attackTest<(device: Device) => PortErrors[]>({
    rows: ["V7"],
    attack: "guesses an rkey, and neither the log nor the audit log tells of it",
    countermeasure: "what ports have counted is looked at every few seconds and put on record",
    against: (device) => device.errorCounters(),
    without: { instead: "counters that nobody looks at", against: () => [] },
    async mount(look) {
      await using system = await System.start();
      const recorded: AuditEntry[] = [];
      const record = (entry: AuditEntry) => {
        recorded.push(entry);
        return Promise.resolve();
      };
      {
        await using _watch = new CounterWatch(
          () => Promise.resolve(look(system.device)),
          { record },
        );
        using attacker = await system.hostile();
        const { address, rkey } = await grant(attacker, "read", 0, 64);
        await read(attacker, { address, rkey: rkey ^ 1 }, 64);
      }
      const warned = system.log.lines("moved").some((line) =>
        line.startsWith("warning a port has")
      );
      return !warned || !JSON.stringify(recorded).includes("resp_remote_access_errors");
    },
  });
}

attackTest<{ head: boolean }>({
  rows: ["A6"],
  attack: "removes from the end of the audit log what it did",
  countermeasure: "audit lines are chained by HMAC, and the newest one's is kept elsewhere",
  against: { head: true },
  without: { instead: "an audit log without its head", against: { head: false } },
  async mount(options) {
    await using scene = await AuditScene.create();
    const lines = await scene.lines(5);
    await scene.write(lines.slice(0, -2));
    try {
      await scene.verify(options);
      return true;
    } catch (error) {
      if (error instanceof IntegrityError) return false;
      throw error;
    }
  },
});
