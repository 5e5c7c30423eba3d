/**
 * `neighbour_process.ts {"load":…,"port":…,"authority":…}`: a client that loads the server until its
 * input ends. It prints a line when it has begun, and for each line that comes, which says for how
 * many seconds, the MB/s of its messages meanwhile.
 */
import process from "node:process";
import { PacketOpcode } from "../../lib/rdma/roce/opcode.ts";
import { Client } from "../../lib/services/client.ts";
import { PacketAttacker } from "../attacks/packet_attacker.ts";
import { provider } from "../provider.ts";
import { MEGABYTE } from "./figure.ts";
import type { Load, NeighbourOptions } from "./neighbours.ts";
import { linesOf } from "./peer.ts";

/** Bytes of a message of who means well, and of one that costs the most for each byte. */
const MESSAGE = new Uint8Array(32_768);
const TINY = new Uint8Array(1);

/** Bytes that were sent and came back, since the process began. */
let moved = 0;

/** Each does its part of a load once, for as long as it is called. */
const loads: Record<Load, (options: NeighbourOptions) => Promise<(() => Promise<unknown>)[]>> = {
  async honest(options) {
    const { session, messages } = await open(options);
    return repeat(4, async () => {
      await session.repeating(() => messages.ask("ECHO", MESSAGE));
      moved += 2 * MESSAGE.length;
    });
  },
  async messages(options) {
    const { session, messages } = await open(options);
    return repeat(128, () => session.repeating(() => messages.ask("ECHO", TINY)));
  },
  async grants(options) {
    const { session, memory } = await open(options);
    return repeat(1, () => session.repeating(() => memory.write(session, 0, TINY)));
  },
  async packets(options) {
    const { session: { agreed } } = await open(options);
    if (agreed.transport !== "rdma") throw new Error("not over a queue pair");
    const { remote } = agreed;
    const attacker = new PacketAttacker(remote, provider.address);
    // A proof that has come already, again and again: each asks for an acknowledgement.
    const packet = { opcode: PacketOpcode.SEND_ONLY, qpn: remote.qpn, psn: agreed.local.psn };
    return repeat(1, () => {
      for (let count = 0; count < 256; count++) attacker.send(packet);
      return new Promise((resolve) => setTimeout(resolve));
    });
  },
  sessions: (options) =>
    Promise.resolve(repeat(4, async () => {
      // Beyond the rate of an address it is refused, and tries again.
      const client = await open(options).catch(() => undefined);
      await client?.[Symbol.asyncDispose]();
    })),
};

function repeat(times: number, work: () => Promise<unknown>): (() => Promise<unknown>)[] {
  return Array.from({ length: times }, () => work);
}

async function open({ port, authority }: NeighbourOptions): Promise<Client> {
  return await Client.open({
    server: { hostname: provider.address, port },
    trust: { authorities: [authority] },
    device: provider.device,
    connect: "tls",
    cmPort: 4791,
    handshakeSeconds: 60,
    agent: "neighbour",
  });
}

const options: NeighbourOptions = JSON.parse(Deno.args[0]!);
const parts = await loads[options.load](options);
for (const part of parts) {
  await part();
  void (async () => {
    for (;;) await part();
  })();
}
console.log("begun");
const nextLine = linesOf(process.stdin);
for (let line = await nextLine(); line !== undefined; line = await nextLine()) {
  const [before, started] = [moved, performance.now()];
  await new Promise((resolve) => setTimeout(resolve, Number(line) * 1000));
  console.log((moved - before) / MEGABYTE / (performance.now() - started) * 1000);
}
// Its session ends with the process.
Deno.exit();
