/** Attacks that use up what the server has: sessions, memory, queues, time. */
import { deadline } from "@std/async/deadline";
import { delay } from "@std/async/delay";
import { Admission } from "../../lib/session/admission.ts";
import { CountedReports, type Omitted } from "../../lib/session/counted_reports.ts";
import { defaultLimits } from "../../lib/session/limits.ts";
import type { Client } from "../../lib/services/client.ts";
import type { Device } from "../../lib/rdma/device.ts";
import { Counter } from "../../lib/rdma/roce/counters.ts";
import type { RoceDevice } from "../../lib/rdma/roce/device.ts";
import { PacketOpcode } from "../../lib/rdma/roce/opcode.ts";
import { psnAfter } from "../../lib/rdma/roce/psn.ts";
import { UdpWire } from "../../lib/rdma/roce/udp_wire.ts";
import { Opcode } from "../../lib/rdma/work_request.ts";
import { RECEIVES } from "../../lib/session/messenger.ts";
import { MessageKind, type SessionService } from "../../lib/session/service.ts";
import { eventually } from "../program.ts";
import { provider, rxe } from "../provider.ts";
import { attackTest } from "./attack.ts";
import { CarelessDevice, ShallowQueuesDevice } from "./careless_device.ts";
import { changed, manyReads } from "./careless_path.ts";
import { ExposedSession } from "./exposed_session.ts";
import { askForGrant, grant } from "./lent_memory.ts";
import { PacketAttacker, reth } from "./packet_attacker.ts";
import { System, type SystemOptions } from "./system.ts";

/** Counts what is allocated. */
class CountingDevice extends CarelessDevice {
  allocated = 0;

  override allocateProtectionDomain() {
    this.allocated += 1;
    return super.allocateProtectionDomain();
  }

  override createCompletionQueue(depth: number) {
    this.allocated += 1;
    return super.createCompletionQueue(depth);
  }
}

/** A server that lets everybody in, and finds out that it is full when a queue pair is there. */
function admittingLate(): SystemOptions {
  const full = new Admission({ ...defaultLimits, clients: 0 });
  const claim = { quota: { identity: "", sessions: 1 }, registeredBytes: 0 };
  return {
    dataPath: (path) =>
      changed(path, {
        async allocate() {
          const own = await path.allocate();
          full.session(provider.address, claim);
          return own;
        },
      }),
  };
}

attackTest<SystemOptions>({
  rows: ["6.4.1"],
  attack: "has resources allocated without being admitted",
  countermeasure: "nothing is allocated before admission",
  against: { limits: { clients: 0 } },
  without: { instead: "a server that allocates, and then decides", against: admittingLate() },
  async mount(options) {
    let counting: CountingDevice | undefined;
    const device = (device: Device) => counting = new CountingDevice(device);
    await using system = await System.start({ ...options, device });
    for (let count = 0; count < 4; count++) {
      using client = await system.connect();
      await client.enter().catch(() => {});
      const reason = await system.ended(client);
      if (reason !== "clients") throw new Error(`the session ended for ${reason}`);
    }
    return counting!.allocated > 0;
  },
});

attackTest<SystemOptions>({
  rows: ["6.4.1"],
  attack: "has more memory registered than it may",
  countermeasure: "registered bytes are limited for a session",
  against: {
    policy: "rules: [{ match: { anonymous: true }, " +
      "allow: { services: [memory], access: [read, write], registered-memory: 64KiB } }]",
  },
  without: { instead: "a rule without that limit", against: {} },
  async mount(options) {
    await using system = await System.start(options);
    using attacker = await system.hostile();
    return await askForGrant(attacker, "write", 0, 128 * 1024) !== undefined;
  },
});

/** Seconds of silence that end a session here, and milliseconds after which it counts as kept. */
const IDLE = 1;
const KEPT = 3000;

attackTest<SystemOptions>({
  rows: ["6.4.2"],
  attack: "keeps a session without a sign of life",
  countermeasure: "heartbeat and idle timeout",
  against: { limits: { idleSeconds: IDLE } },
  without: { instead: "an idle timeout of an hour", against: { limits: { idleSeconds: 3600 } } },
  async mount(options) {
    await using system = await System.start(options);
    using attacker = await system.hostile();
    const ended = system.ended(attacker).then(() => false);
    return await Promise.race([ended, delay(KEPT).then(() => true)]);
  },
});

attackTest<SystemOptions>({
  rows: ["6.4.3.1"],
  attack: "sends more messages than there are receives, so that others find none",
  countermeasure: "receives are the session's own, with credits",
  against: {},
  without: { impossible: "there is no shared receive queue: neither provider has one" },
  async mount(options) {
    await using system = await System.start(options);
    await using honest = await system.client();
    using attacker = await system.hostile();
    for (let count = 0; count < 48; count++) attacker.sendFragment({ kind: MessageKind.ECHO });
    const { session, messages } = honest;
    const asked = session.during(messages.ask("ECHO", new Uint8Array(30_000)));
    return await deadline(asked, 5000).then(() => false, () => true);
  },
});

/** Messages a second that a session may send, and as many more at once. */
const RATE = 10;
/** Messages that the attacker has under way: more than it has credits for. */
const FLOOD = 128;
/** What it is served before it has to wait: it gets so many credits back, sends a proof, and keeps one. */
const AT_ONCE = RATE + RECEIVES - 2;
/** Messages of the honest client, one after the other, beside which the attacker's are counted. */
const ASKED = 16;
/** The part that the honest client keeps at least of what it has beside one that does as it does. */
const KEPT_PART = 0.9;

attackTest<SystemOptions>({
  rows: ["6.4.4", "A5"],
  attack: "floods the server with tiny messages, at the cost of another client",
  countermeasure: "a limit on message rate: who exceeds it is slowed down, and nobody else",
  against: { limits: { messagesPerSecond: RATE } },
  without: { instead: "a rate that nobody reaches", against: {} },
  async mount(options) {
    await using system = await System.start(options);
    await using honest = await system.client();
    await using attacker = await system.client();
    const ask = ({ session, messages }: Client) =>
      session.during(messages.ask("ECHO", new Uint8Array(1)));
    let served = 0;
    const servedAtOnce = Promise.withResolvers<void>();
    const flood = async (): Promise<void> => {
      for (;;) {
        await ask(attacker);
        if (++served === AT_ONCE) servedAtOnce.resolve();
      }
    };
    for (let count = 0; count < FLOOD; count++) flood().catch(servedAtOnce.reject);
    await servedAtOnce.promise;
    const before = served;
    for (let count = 0; count < ASKED; count++) await ask(honest);
    // A message costs what the other's does, and beside one that asks as it does each has one's turn.
    return 2 / (1 + (served - before) / ASKED) < KEPT_PART;
  },
});

/** Sessions that try to overflow their completion queue, and of those that come to no harm by it. */
const OVERFLOWS = 50;
const UNHARMED = 5;

/** Milliseconds for which the server polls nothing while messages come. */
const ASLEEP = 50;

/** This thread, and with it the server's session: a device's transport goes on, and takes what comes. */
function sleep(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}

attackTest<SystemOptions>({
  rows: ["6.4.3.2", "6.4.6"],
  attack: "overflows the completion queue with messages beyond its credits",
  countermeasure: "the queue holds all completions that can be outstanding",
  against: {},
  without: {
    instead: "a completion queue of four",
    against: { device: (device) => new ShallowQueuesDevice(device, 4) },
  },
  async mount(options) {
    await using system = await System.start(options);
    let overflown = false;
    const event = Promise.withResolvers<void>();
    const ending = new AbortController();
    using _ending = { [Symbol.dispose]: () => ending.abort() };
    system.device.onAsyncEvent(({ name }) => {
      overflown ||= name === "IBV_EVENT_CQ_ERR";
      if (overflown) event.resolve();
    }, ending.signal);
    // With rdma_rxe the queue pair may fail before its queue does; the kernel then forgets the event.
    let unharmed = 0;
    for (let attempt = 0; attempt < OVERFLOWS && !overflown; attempt++) {
      using attacker = await system.hostile();
      for (let count = 0; count < 64; count++) attacker.sendFragment({ kind: MessageKind.ECHO });
      sleep(ASLEEP);
      // Who finds no receive for too long has a failed queue pair, but only of its own.
      const held = [attacker.acknowledged(), attacker.failure].map((each) => each.then(() => true));
      const failed = [system.ended(attacker), attacker.hear("REQUEUE")].map((each) =>
        each.then(() => false)
      );
      if (await Promise.any([...held, ...failed]) && ++unharmed === UNHARMED) break;
    }
    await Promise.race([event.promise, delay(KEPT)]);
    return overflown;
  },
});

const READS = 64;
const READ_BYTES = 65536;

/** Sends many READ requests at once, each for much more than it weighs. */
async function flood({ client, toServer }: ExposedSession): Promise<void> {
  const { address, rkey } = await grant(client, "read", 0, READ_BYTES);
  const { qpn, mtu } = client.numbers.remote;
  const body = reth(address, rkey, READ_BYTES);
  toServer.sendTogether(Array.from({ length: READS }, (_, count) => ({
    ...{ opcode: PacketOpcode.READ_REQUEST, qpn, body },
    psn: psnAfter(client.nextPsn, count * READ_BYTES / mtu),
  })));
}

attackTest<SystemOptions>({
  rows: ["6.4.3.3"],
  attack: "sends 64 READ requests at once, for much more than they weigh",
  countermeasure: "only as many READs outstanding as were agreed",
  provider: "roce",
  against: {},
  without: {
    instead: "128 READs outstanding whatever was agreed",
    against: { dataPath: manyReads },
  },
  async mount(options) {
    await using system = await System.start(options);
    await using exposed = await ExposedSession.open(system);
    await flood(exposed);
    // Who breaks the rules of the transport needs another queue pair.
    return await Promise.race([
      exposed.client.hear("REQUEUE").then(() => false),
      delay(KEPT).then(() => true),
    ]);
  },
});

/** Packets that the guest's device has sent. */
async function packetsSent(): Promise<number> {
  return Number(await Deno.readTextFile(`${rxeCounters}/sent_pkts`));
}

const rxeCounters = `/sys/class/infiniband/${rxe.device}/ports/1/hw_counters`;

attackTest<SystemOptions>({
  rows: ["6.4.3.3"],
  attack: "sends Soft-RoCE 64 READ requests at once, at another client's cost",
  countermeasure: "sessions have queue pairs of their own, which the device serves by turns",
  provider: "verbs",
  against: {},
  without: { impossible: "rdma_rxe answers all READs in their order, however few were agreed" },
  async mount(options) {
    await using system = await System.start(options);
    await using honest = await system.client();
    await using exposed = await ExposedSession.open(system);
    const sent = await packetsSent();
    await flood(exposed);
    const { session, messages } = honest;
    const asked = session.during(messages.ask("ECHO", new Uint8Array(30_000)));
    const answered = await deadline(asked, 5000).then(() => true, () => false);
    const packets = READS * READ_BYTES / exposed.client.numbers.remote.mtu;
    await eventually(
      "READs are answered",
      async () => await packetsSent() >= sent + packets,
      10_000,
    );
    return !answered;
  },
});

/** Calls that send as many packets as the system takes at once, some hundred. */
const BURSTS = 8;

/** Notes how many packets a port has taken when it gets the first question. */
function noting(note: () => void): NonNullable<SystemOptions["services"]> {
  const noted = (service: SessionService): SessionService => ({
    ...service,
    message(kind, id, body) {
      note();
      service.message!(kind, id, body);
    },
    [Symbol.asyncDispose]: () => service[Symbol.asyncDispose](),
  });
  return (definitions) =>
    definitions.map((each) =>
      each.name === "messages" ? { ...each, start: (access) => noted(each.start(access)) } : each
    );
}

/** One socket takes the packets of all peers, until it is disposed. */
function sharedSocket(): Disposable {
  const { attend } = UdpWire.prototype;
  UdpWire.prototype.attend = () => {};
  return { [Symbol.dispose]: () => void (UdpWire.prototype.attend = attend) };
}

if (provider.name === "roce") {
  attackTest<() => Disposable>({
    rows: ["6.4.4", "A5"],
    attack: "floods the port with packets, behind which another client's have to wait",
    countermeasure: "a socket for each peer, and of each some packets in its turn",
    against: () => ({ [Symbol.dispose]() {} }),
    without: { instead: "one socket for all peers", against: sharedSocket },
    async mount(receiving) {
      using _receiving = receiving();
      let taken = 0;
      const count = () => (system.device as RoceDevice).counters.values[Counter.RX_PACKETS]!;
      await using system = await System.start({ services: noting(() => taken = count()) });
      await using honest = await system.client();
      using attacker = await system.hostile();
      const { remote: { qpn, ...port } } = attacker.numbers;
      using packets = new PacketAttacker(port, provider.address);
      const flood = packets.flood({ opcode: PacketOpcode.SEND_ONLY, qpn, psn: 0 });
      const before = count();
      let sent = 0;
      // All in one go: the server has no turn between.
      for (let burst = 0; burst < BURSTS; burst++) sent += flood();
      await honest.session.during(honest.messages.ask("ECHO", new Uint8Array(1)));
      return taken - before > sent / 2;
    },
  });
}

/** A log that has a line for each event. */
class UnlimitedReports extends CountedReports {
  override count(code: string): Omitted {
    super.count(code);
    return {};
  }
}

/** Fatal events; as many at once are more than the log has lines for. */
const EVENTS = 14;

attackTest<(now: () => number) => CountedReports>({
  rows: ["2.2.7"],
  attack: "fills the log by one fatal asynchronous event after the other",
  countermeasure:
    "events are taken at once and counted; few get a line, which says how many did not",
  against: (now) => new CountedReports(now),
  without: {
    instead: "a log with a line for each event",
    against: (now) => new UnlimitedReports(now),
  },
  async mount(reports) {
    let milliseconds = 0; // the flood is as fast as can be, on any machine
    const source = eventSource();
    await using system = await System.start({
      ...source.options,
      eventReports: reports(() => milliseconds),
    });
    let events = 0;
    const ending = new AbortController();
    using _ending = { [Symbol.dispose]: () => ending.abort() };
    system.device.onAsyncEvent(({ fatal }) => void (events += Number(fatal)), ending.signal);
    while (events < EVENTS) await source.cause(system);
    const before = events;
    milliseconds += 1000;
    while (events === before) await source.cause(system);
    const lines = system.log.records.filter(({ rawMessage, level }) =>
      rawMessage === "asynchronous event" && level === "warning"
    ).map(({ properties }) => properties);
    if (lines.length === events) return true;
    const { count, omitted } = lines.at(-1)!;
    if (count === before + 1 && omitted === before + 1 - lines.length) return false;
    throw new Error(`of ${events} events the log tells ${count}, and ${omitted} left out`);
  },
});

/** A server at which clients cause fatal events, and how one does. */
function eventSource(): {
  readonly options: SystemOptions;
  cause(system: System): Promise<void>;
} {
  if (provider.name === "roce") {
    return {
      options: {},
      async cause(system) {
        using client = await system.hostile();
        client.reach(Opcode.WRITE, { address: 0x7000_0000_0000, rkey: 0x1234 });
        await client.hear("REQUEUE");
      },
    };
  }
  // rdma_rxe reports nothing else that a peer can cause, and only of queues that are too short.
  return {
    options: { device: (device) => new ShallowQueuesDevice(device, 4) },
    async cause(system) {
      using client = await system.hostile();
      for (let count = 0; count < 64; count++) client.sendFragment({ kind: MessageKind.ECHO });
      // The queue pair may fail first, and another is offered then.
      await Promise.any([system.ended(client), client.hear("REQUEUE")]);
    },
  };
}
