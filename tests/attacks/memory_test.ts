/** Attacks on memory that the server lends: with keys, addresses and times that were not granted. */
import { PacketOpcode } from "../../lib/rdma/roce/opcode.ts";
import { Opcode, SendFlag } from "../../lib/rdma/work_request.ts";
import { LentBuffers } from "../../lib/services/lent_buffers.ts";
import { RegisteredBuffer } from "../../lib/session/grants.ts";
import type { RemoteBuffer, ServiceAccess } from "../../lib/session/service.ts";
import { provider } from "../provider.ts";
import { type ReliableEnd, ReliablePair } from "../rdma/resources.ts";
import { AttackedEnd } from "../rdma/roce/attacked_end.ts";
import { Forger, plain } from "../rdma/roce/forged_packet.ts";
import type { HostileClient } from "../session/hostile_client.ts";
import { type Attack, attackTest } from "./attack.ts";
import { AtomicDevice, LooseBoundsDevice, SharedDomainDevice } from "./careless_device.ts";
import { withCarelessMemory } from "./careless_memory.ts";
import {
  askForGrant,
  changeAtomically,
  grant,
  read,
  watched,
  withdraw,
  write,
} from "./lent_memory.ts";
import { System, type SystemOptions } from "./system.ts";

const secret = crypto.getRandomValues(new Uint8Array(64));

/** A range so many bytes further. */
function beside({ address, rkey }: RemoteBuffer, bytes: number): RemoteBuffer {
  return { address: address + bytes, rkey };
}

function holdsSecret(bytes: Uint8Array | undefined): boolean {
  return bytes !== undefined && bytes.toHex().includes(secret.toHex());
}

/** An attack by a client that has a session. */
type MemoryAttack = Omit<Attack<SystemOptions>, "against" | "mount"> & {
  readonly mount: (attacker: HostileClient) => Promise<boolean>;
};

function memoryTest({ mount, ...attack }: MemoryAttack): void {
  attackTest<SystemOptions>({
    ...attack,
    against: {},
    async mount(options) {
      await using system = await System.start(options);
      using attacker = await system.hostile();
      return await mount(attacker);
    },
  });
}

attackTest<SystemOptions>({
  rows: ["6.1.1", "V9", "A3"],
  attack: "READs another session's memory with its rkey and address",
  countermeasure: "a protection domain for each session",
  against: {},
  without: {
    instead: "one protection domain for all sessions",
    against: { device: (device) => new SharedDomainDevice(device) },
  },
  async mount(options) {
    await using system = await System.start(options);
    using victim = await system.hostile();
    await write(victim, await grant(victim, "write", 0, 64), secret);
    await withdraw(victim);
    const stolen = await grant(victim, "read", 0, 64);
    using attacker = await system.hostile();
    return holdsSecret(await read(attacker, stolen, 64));
  },
});

memoryTest({
  rows: ["6.2.1"],
  attack: "WRITEs beyond the end of what was granted",
  countermeasure: "regions with exact bounds",
  without: {
    instead: "regions as large as the memory that they are in",
    against: { device: (device) => new LooseBoundsDevice(device) },
  },
  async mount(attacker) {
    const granted = await grant(attacker, "write", 4096, 32);
    return await write(attacker, granted, secret);
  },
});

// The lengths that a device accepts are its own affair.
if (provider.name === "roce") {
  attackTest<undefined>({
    rows: ["6.2.1"],
    attack: "answers a READ of 700 bytes with 768",
    countermeasure: "the lengths of all packets of an answer are checked before they are stored",
    against: undefined,
    without: {
      impossible: "it is the transport's own, which stores nothing that it has not counted",
    },
    // deno-lint-ignore require-await -- the network is a simulated one
    async mount() {
      using attacked = new AttackedEnd("IPv4");
      using forger = new Forger(attacked.peer, attacked.end.host.port.local);
      const { READ_RESPONSE_FIRST, READ_RESPONSE_MIDDLE, READ_RESPONSE_LAST } = PacketOpcode;
      const opcodes = [READ_RESPONSE_FIRST, READ_RESPONSE_MIDDLE, READ_RESPONSE_LAST];
      for (const [ahead, opcode] of opcodes.entries()) {
        const packet = { ...plain, opcode, ahead, payloadBytes: 256 };
        attacked.hit(forger.make(packet, attacked.knowledge));
      }
      if (attacked.end.sent[0]?.status !== "IBV_WC_BAD_RESP_ERR") return true;
      attacked.checkMemory();
      return false;
    },
  });
}

memoryTest({
  rows: ["6.3.1"],
  attack: "READs before the beginning of what was granted",
  countermeasure: "regions with exact bounds",
  without: {
    instead: "regions as large as the memory that they are in",
    against: { device: (device) => new LooseBoundsDevice(device) },
  },
  async mount(attacker) {
    await write(attacker, await grant(attacker, "write", 0, 64), secret);
    await withdraw(attacker);
    const granted = await grant(attacker, "read", 4096, 64);
    return holdsSecret(await read(attacker, beside(granted, -4096), 64));
  },
});

memoryTest({
  rows: ["6.2.3", "6.3.6"],
  attack: "asks for a second rkey of a buffer, to go on with it after the withdrawal",
  countermeasure: "one rkey for a buffer at a time, for one session",
  without: {
    instead: "a service that grants a buffer several times",
    against: { services: withCarelessMemory({ grantsSeveral: true }) },
  },
  async mount(attacker) {
    const first = await grant(attacker, "write", 0, 64);
    if (await askForGrant(attacker, "write", 0, 64) === undefined) return false;
    await withdraw(attacker);
    return await write(attacker, first, secret);
  },
});

attackTest<SystemOptions>({
  rows: ["6.3.2"],
  attack: "READs what an earlier session has left in lent memory",
  countermeasure: "buffers are zeroed before they are lent",
  against: {},
  without: {
    instead: "memory that is lent as it was left",
    against: { services: withCarelessMemory({ handsDirtyMemoryOn: true }) },
  },
  async mount(options) {
    await using system = await System.start(options);
    {
      using victim = await system.hostile();
      await write(victim, await grant(victim, "write", 0, 64), secret);
      victim.hangUp();
      await system.ended(victim);
    }
    using attacker = await system.hostile();
    return holdsSecret(await read(attacker, await grant(attacker, "read", 0, 64), 64));
  },
});

memoryTest({
  rows: ["6.3.3"],
  attack: "WRITEs after the grant was withdrawn",
  countermeasure: "the grant is withdrawn before the reply is sent",
  without: {
    instead: "a withdrawal that leaves the region registered",
    against: { services: withCarelessMemory({ keepsGrants: true }) },
  },
  async mount(attacker) {
    const granted = await grant(attacker, "write", 0, 64);
    await withdraw(attacker);
    return await write(attacker, granted, secret);
  },
});

memoryTest({
  rows: ["6.3.4"],
  attack: "READs with a valid rkey what lies elsewhere in the service's memory",
  countermeasure: "the range of the service in hand is exposed, never all of its memory",
  without: {
    instead: "a service that exposes all of its memory",
    against: { services: withCarelessMemory({ exposesAll: true }) },
  },
  async mount(attacker) {
    await write(attacker, await grant(attacker, "write", 8192, 64), secret);
    await withdraw(attacker);
    const granted = await grant(attacker, "read", 0, 64);
    return holdsSecret(await read(attacker, beside(granted, 8192), 64));
  },
});

for (const [granted, opcode] of [["write", Opcode.READ], ["read", Opcode.WRITE]] as const) {
  const name = opcode === Opcode.READ ? "READs from" : "WRITEs to";
  memoryTest({
    rows: ["6.3.5"],
    attack: `${name} a buffer that was granted to ${granted}`,
    countermeasure: "a buffer is exposed for one direction at a time",
    without: {
      instead: "grants for both directions",
      against: { services: withCarelessMemory({ grantsBothWays: true }) },
    },
    async mount(attacker) {
      const range = await grant(attacker, granted, 0, 64);
      if (opcode === Opcode.WRITE) return await write(attacker, range, secret);
      return await read(attacker, range, 64) !== undefined;
    },
  });
}

for (
  const [what, opcode, direction, seal] of [
    ["a sealed record in place, by FETCH_AND_ADD", Opcode.FETCH_AND_ADD, "write", "required"],
    ["lent memory in place, by COMPARE_AND_SWAP", Opcode.COMPARE_AND_SWAP, "read", "off"],
  ] as const
) {
  attackTest<SystemOptions>({
    rows: ["A3"],
    attack: `changes ${what}`,
    countermeasure: "neither a region nor a queue pair has REMOTE_ATOMIC",
    against: { seal },
    without: {
      instead: "REMOTE_ATOMIC for all that a peer may reach",
      against: { seal, device: (device) => new AtomicDevice(device) },
    },
    async mount(options) {
      const { promise: left, resolve } = Promise.withResolvers<Uint8Array>();
      await using system = await System.start({ ...options, services: watched(resolve) });
      using attacker = await system.hostile();
      const granted = await grant(attacker, direction, 0, 64);
      const done = await changeAtomically(attacker, opcode, granted);
      attacker.hangUp();
      return done || (await left).some((octet) => octet !== 0);
    },
  });
}

/** Lends memory of one end of a connection, as a session's data path does. */
function lender({ protectionDomain }: ReliableEnd): Pick<ServiceAccess, "lend"> {
  return {
    lend(memory, offset = 0, length = memory.length - offset) {
      // Where it will be, as registering tells.
      const region = protectionDomain.registerMemory(memory, [], offset, length);
      const { address } = region;
      region[Symbol.dispose]();
      const range = { memory, offset, length };
      return new RegisteredBuffer(protectionDomain, range, address, { [Symbol.dispose]() {} });
    },
  };
}

/** One whose withdrawals are none. */
function lendingForGood(end: ReliableEnd): Pick<ServiceAccess, "lend"> {
  const { lend } = lender(end);
  const withdraw = () => Promise.resolve();
  return { lend: (...range) => Object.assign(lend(...range), { withdraw }) };
}

attackTest<(end: ReliableEnd) => Pick<ServiceAccess, "lend">>({
  rows: ["6.2.2"],
  attack: "changes a buffer with a file's bytes after it was handed over",
  countermeasure: "the grant is withdrawn before the bytes are used",
  against: lender,
  without: { instead: "buffers that stay open", against: lendingForGood },
  async mount(lend) {
    using pair = new ReliablePair();
    const { server: victim, client: attacker } = pair;
    await using buffers = new LentBuffers(lend(victim) as ServiceAccess, "write");
    const rkey = await buffers.give(0);
    const remote = { address: Number(buffers.window.address), rkey };
    await writeOnce(attacker, remote, 1);
    await buffers.takeBack(0);
    const handedOver = buffers.memory.bytes[0];
    if (handedOver !== 1) throw new Error("nothing was handed over");
    await writeOnce(attacker, remote, 2);
    return buffers.memory.bytes[0] !== handedOver;
  },
});

/** WRITEs 64 bytes of this value, whatever becomes of it. */
async function writeOnce(
  { memory, region, sends, queuePair, queue }: ReliableEnd,
  remote: RemoteBuffer,
  value: number,
): Promise<void> {
  memory.bytes.fill(value, 0, 64);
  sends.prepare(0, 0, Opcode.WRITE, SendFlag.SIGNALED)
    .buffer(0, region.address, 64, region.lkey)
    .remote(0, remote.address, remote.rkey);
  queuePair.postSend(sends);
  await queue.next();
}

/** Pages of 4 KiB that are granted, and the one of them that the victim has used. */
const PAGES = 8;
const USED = 3;
const PAGE = 4096;

/** What holds of a device, and of the embedded provider, which is a process like any other. */
const paged: Pick<Attack<SystemOptions>, "countermeasure" | "without"> = provider.name === "roce"
  ? {
    countermeasure: "pages are of one session alone, and tell nothing of another",
    without: {
      instead: "memory that all sessions share",
      against: { services: withCarelessMemory({ handsDirtyMemoryOn: true }) },
    },
  }
  : {
    countermeasure: "memory is pinned, and never paged on demand",
    without: {
      impossible: "rdma_rxe pins all that is registered, and nothing here asks it not to",
    },
  };

attackTest<SystemOptions>({
  rows: ["V10"],
  attack: "tells from the time that a READ takes which pages another session has used",
  ...paged,
  against: {},
  async mount(options) {
    await using system = await System.start(options);
    using victim = await system.hostile();
    await write(victim, await grant(victim, "write", USED * PAGE, 64), secret);
    await withdraw(victim);
    using attacker = await system.hostile();
    const before = pinnedBytes();
    const { address } = await grant(attacker, "read", 0, PAGES * PAGE);
    // What is paged on demand is not pinned.
    if (provider.name === "verbs" && pinnedBytes() < before + PAGES * PAGE) return true;
    const present = await pagesPresent(address, PAGES);
    return present.some((isPresent) => isPresent !== present[0]);
  },
});

/** Bytes of this process that devices have pinned (VmPin of proc_pid_status(5)). */
function pinnedBytes(): number {
  const status = Deno.readTextFileSync("/proc/self/status");
  return Number(/VmPin:\s+(\d+)/.exec(status)![1]) * 1024;
}

/** Which pages of this process are in memory: bit 63 of their entries in proc_pid_pagemap(5). */
async function pagesPresent(address: number, pages: number): Promise<boolean[]> {
  using file = await Deno.open("/proc/self/pagemap");
  await file.seek(address / PAGE * 8, Deno.SeekMode.Start);
  const entries = new DataView(new ArrayBuffer(pages * 8));
  const count = await file.read(new Uint8Array(entries.buffer));
  if (count !== entries.byteLength) throw new Error(`the kernel tells ${count} bytes of its map`);
  return Array.from({ length: pages }, (_, page) => entries.getUint8(page * 8 + 7) >= 0x80);
}
