/** Attacks on what is left of an attack: what is noticed of it, and what is on record. */
import { IntegrityError } from "../../lib/errors.ts";
import type { Device, PortErrors } from "../../lib/rdma/device.ts";
import { PacketOpcode } from "../../lib/rdma/roce/opcode.ts";
import { psnAfter } from "../../lib/rdma/roce/psn.ts";
import { portErrorCounters } from "../../lib/rdma/verbs/port_counters.ts";
import type { AuditEntry } from "../../lib/security/audit.ts";
import { CounterWatch } from "../../lib/session/counter_watch.ts";
import { eventually } from "../program.ts";
import { rxe } from "../provider.ts";
import { AuditScene } from "../security/audit_scene.ts";
import { metricsOf, sourcesOf, valuesOf } from "../session/metrics.ts";
import { type Attack, attackTest } from "./attack.ts";
import { ExposedSession } from "./exposed_session.ts";
import { grant, read } from "./lent_memory.ts";
import { System } from "./system.ts";

type Look = (device: Device) => PortErrors[];

/** What an attack of guesses is mounted on: who looks at the counters of the server's device. */
const looking: Pick<Attack<Look>, "rows" | "against" | "without"> = {
  rows: ["V7"],
  against: (device) => device.errorCounters(),
  without: { instead: "counters that nobody looks at", against: () => [] },
};

/** Whether the log, the audit log or the metrics do not tell by this counter of what a client's attacker does. */
async function unnoticed(
  look: Look,
  counter: string,
  guess: (exposed: ExposedSession) => void | Promise<unknown>,
): Promise<boolean> {
  await using system = await System.start();
  const recorded: AuditEntry[] = [];
  const metrics = metricsOf({
    failing: false,
    record: (entry) => {
      recorded.push(entry);
      return Promise.resolve();
    },
  });
  const measured = async () =>
    valuesOf(await metrics.text(sourcesOf(() => look(system.device))), "verbseal_port_errors_total")
      .find(({ labels }) => labels["counter"] === counter)?.value ?? 0;
  let before = NaN;
  await using exposed = await ExposedSession.open(system);
  {
    const first = Promise.withResolvers<void>();
    const counters = () => {
      first.resolve();
      return Promise.resolve(look(system.device));
    };
    await using _watch = new CounterWatch(counters, metrics, LOOK_MILLISECONDS);
    await first.promise;
    before = await measured();
    await guess(exposed);
  }
  const warned = system.log.lines("moved").some((line) => line.startsWith("warning a port has"));
  const onRecord = JSON.stringify(recorded).includes(counter);
  return !warned || !onRecord || await measured() <= before;
}

/** Such that the first look is soon over: what a device has counted before is not its attacker's. */
const LOOK_MILLISECONDS = 100;

attackTest<Look>({
  attack: "guesses an rkey, and log, audit log and metrics do not all tell of it",
  countermeasure:
    "what ports have counted is looked at every few seconds, put on record and measured",
  provider: "roce",
  ...looking,
  mount: (look) =>
    unnoticed(look, "resp_remote_access_errors", async ({ client }) => {
      const { address, rkey } = await grant(client, "read", 0, 64);
      await read(client, { address, rkey: rkey ^ 1 }, 64);
    }),
});

/** What rdma_rxe calls requests with another PSN than the next. */
const OUT_OF_SEQUENCE = "out_of_seq_request";

attackTest<Look>({
  attack: "guesses a PSN of Soft-RoCE's, and log, audit log and metrics do not all tell",
  countermeasure:
    "what the kernel has counted of a device is looked at, put on record and measured too",
  provider: "verbs",
  ...looking,
  mount: (look) =>
    unnoticed(look, OUT_OF_SEQUENCE, async ({ client, toServer }) => {
      const { numbers: { remote: { qpn } }, nextPsn } = client;
      const counted = () => portErrorCounters(rxe.device, 1)[OUT_OF_SEQUENCE]!;
      const before = counted();
      toServer.send({ opcode: PacketOpcode.SEND_ONLY, qpn, psn: psnAfter(nextPsn, 1000) });
      await eventually("the packet is counted", () => counted() > before, 5000);
    }),
});

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
