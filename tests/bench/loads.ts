/** What clients do to a server, each as fast as it can. */
import { setImmediate } from "node:timers";
import type { Device } from "../../lib/rdma/device.ts";
import { openDevice } from "../../lib/rdma/provider.ts";
import { PacketOpcode } from "../../lib/rdma/roce/opcode.ts";
import { Opcode } from "../../lib/rdma/work_request.ts";
import { Client } from "../../lib/services/client.ts";
import { defaultLimits } from "../../lib/session/limits.ts";
import { MessageKind } from "../../lib/session/service.ts";
import { grant } from "../attacks/lent_memory.ts";
import { PacketAttacker } from "../attacks/packet_attacker.ts";
import { provider } from "../provider.ts";
import { HostileClient } from "../session/hostile_client.ts";
import type { Load, NeighbourOptions } from "./neighbours.ts";

/** Bytes of a message of who means well, of one that costs the most for each byte, and of the largest. */
const MESSAGE = new Uint8Array(32_768);
const TINY = new Uint8Array(1);
const LARGE = new Uint8Array(defaultLimits.messageBytes);

/** Bytes that a READ asks for, and READs outstanding: as many as the server agrees to. */
const READ_BYTES = 65_536;
const READS = 16;

/** PINGs that are answered at once; with twice as many a session would be ended for what waits. */
const PINGS = 12;

/** Questions of a client that takes no answers: those beyond its receives find none. */
const UNANSWERED = 24;

/** Times that a burst of packets is sent before this thread looks for anything else. */
const BURSTS = 64;

/** Bytes that were sent and came back, since the process began. */
let movedBytes = 0;

export function moved(): number {
  return movedBytes;
}

/** Does its part of a load once, for as long as it is called. */
type Part = () => Promise<unknown>;

/** Each gives its parts, which are done beside each other. */
export const loads: Record<Load, (options: NeighbourOptions) => Promise<Part[]>> = {
  async honest(options) {
    const { session, messages } = await open(options);
    return repeat(4, async () => {
      await session.repeating(() => messages.ask("ECHO", MESSAGE));
      movedBytes += 2 * MESSAGE.length;
    });
  },
  async messages(options) {
    const { session, messages } = await open(options);
    return repeat(128, () => session.repeating(() => messages.ask("ECHO", TINY)));
  },
  async large(options) {
    const { session, messages } = await open(options);
    return repeat(4, () => session.repeating(() => messages.ask("ECHO", LARGE)));
  },
  async grants(options) {
    const { session, memory } = await open(options);
    return repeat(1, () => session.repeating(() => memory.write(session, 0, TINY)));
  },
  reads: (options) => reading(options, 0, READ_BYTES),
  tinyReads: (options) => reading(options, 1, 1),
  async frames(options) {
    const [pings, requests] = [await establish(options), await establish(options)];
    return [
      async () => {
        for (let id = 0; id < PINGS; id++) await pings.send({ name: "PING", body: { id } });
        for (let id = 0; id < PINGS; id++) await pings.hear("PONG");
      },
      async () => {
        const { requests: most } = defaultLimits;
        for (let id = 0; id < most; id++) {
          await requests.request("memory", { operation: "withdraw" });
        }
        for (let id = 0; id < most; id++) await requests.reply();
      },
    ];
  },
  async packets(options) {
    const { session: { agreed } } = await open(options);
    if (agreed.transport !== "rdma") throw new Error("not over a queue pair");
    const { remote } = agreed;
    const attacker = new PacketAttacker(remote, options.place.address);
    // A proof that has come already, again and again: each asks for an acknowledgement.
    const psn = agreed.local.psn;
    const flood = attacker.flood({ opcode: PacketOpcode.SEND_ONLY, qpn: remote.qpn, psn });
    return repeat(1, () => {
      for (let count = 0; count < BURSTS; count++) flood();
      return new Promise<void>((resolve) => setImmediate(resolve));
    });
  },
  sessions: (options) =>
    Promise.resolve(repeat(4, async () => {
      // Beyond the rate of an address it is refused, and tries again.
      const client = await open(options).catch(() => undefined);
      await client?.[Symbol.asyncDispose]();
    })),
  requeues: (options) =>
    again(options, async (client) => {
      for (let epoch = 1; epoch <= defaultLimits.requeuesPerMinute; epoch++) {
        await client.send({ name: "REQUEUE", body: { epoch, reason: "because" } });
        await client.send({ name: "QP", body: { ...client.numbers.local, epoch } });
        await client.hear("READY");
      }
    }),
  unreceived: (options) =>
    again(options, async (client) => {
      client.withholdReceives();
      for (let count = 0; count < UNANSWERED; count++) {
        // It grants a credit for each answer, and posts no receive for it.
        client.sendFragment({ kind: MessageKind.ECHO, credits: 1, payload: TINY });
        await client.acknowledged(8);
      }
      await client.hear("REQUEUE");
    }),
};

function repeat(times: number, work: Part): Part[] {
  return Array.from({ length: times }, () => work);
}

/** READs of what was granted once, as many outstanding as were agreed. */
async function reading(
  options: NeighbourOptions,
  offset: number,
  length: number,
): Promise<Part[]> {
  const client = await establish(options);
  const { address, rkey } = await grant(client, "read", 0, offset + length);
  // It goes on for long: meanwhile heartbeats are answered.
  client.hear("ERROR").catch(() => {});
  return repeat(1, async () => {
    client.reach(Opcode.READ, { address: address + offset, rkey }, length);
    await client.acknowledged(READS - 1);
  });
}

/** One session after the other, four at once; beyond the rate of an address they are refused. */
// deno-lint-ignore require-await -- others have something to wait for
async function again(
  options: NeighbourOptions,
  work: (client: HostileClient) => Promise<void>,
): Promise<Part[]> {
  return repeat(4, async () => {
    try {
      using client = await establish(options);
      await work(client);
    } catch {
      // It was refused or ended, and comes again.
    }
  });
}

async function open({ port, authority, place }: NeighbourOptions): Promise<Client> {
  return await Client.open({
    server: { hostname: provider.address, port },
    trust: { authorities: [authority] },
    device: place.device,
    connect: "tls",
    cmPort: 4791,
    handshakeSeconds: 60,
    agent: "neighbour",
  });
}

/** Of all clients that keep to no rule. */
let device: Device | undefined;

async function establish({ port, authority }: NeighbourOptions): Promise<HostileClient> {
  device ??= openDevice(provider.device, { standardPort: false });
  using building = new DisposableStack();
  const client = building.use(
    await HostileClient.connect({ port }, authority, device, { rdAtomic: READS }),
  );
  await client.establish();
  building.move();
  return client;
}
