import { assert, assertEquals, assertRejects } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { setImmediate } from "node:timers/promises";
import { Memory } from "../../ffi/memory.ts";
import { VerbsealError } from "../../lib/errors.ts";
import type { Device } from "../../lib/rdma/device.ts";
import type { MemoryRegion } from "../../lib/rdma/memory_region.ts";
import { selectPort } from "../../lib/rdma/provider.ts";
import { Opcode } from "../../lib/rdma/work_request.ts";
import type { GrantDirection, LentBuffer, RemoteBuffer } from "../../lib/session/service.ts";
import { assertHeld, heldResources } from "../program.ts";
import { provider } from "../provider.ts";
import { verbsTest } from "../rdma/resources.ts";
import { DataPathPair, type PathEnd } from "./data_path_pair.ts";

// The connection manager keeps a context of the device for the life of this process.
selectPort(provider.device, provider.address);

const PAGE = 4096;
/** Bytes of a transfer that takes its time. */
const LONG = 2 ** 18;
const OURS = 0x11;
const THEIRS = 0x77;
const LATER = 0xee;

/** How the provider opens memory: the embedded one in its table, others by windows where they have them. */
const ways: readonly [name: string, adapt: (device: Device) => void][] = provider.name === "roce"
  ? [["by the region table", () => {}]]
  : [["by a window", guarded(true)], ["by registration", guarded(false)]];

/** Makes the device one that has memory windows which others cannot end, or that has not. */
function guarded(guardsMemoryWindows: boolean): (device: Device) => void {
  return (device) => Object.assign(device, { guardsMemoryWindows });
}

/**
 * Makes the device one on which other threads deregister, and are not through before `end`.
 *
 * @param ended gets what has ended, in its order
 */
function endingLate(end: Promise<void>, ended: string[] = []): (device: Device) => void {
  return (device) => {
    const { allocateProtectionDomain } = device;
    const allocate = () => {
      const domain = allocateProtectionDomain.call(device);
      const dispose = domain[Symbol.dispose];
      const deregister = async (region: MemoryRegion) => {
        await end;
        region[Symbol.dispose]();
        ended.push("region");
      };
      let aside: Promise<void> = Promise.resolve();
      return Object.assign(domain, {
        deregisterMemoryAside: (region: MemoryRegion) => aside = deregister(region),
        settled: () => aside,
        [Symbol.dispose]() {
          dispose.call(domain);
          ended.push("protection domain");
        },
      });
    };
    const changes = { guardsMemoryWindows: false, allocateProtectionDomain: allocate };
    Object.assign(device, changes);
  };
}

type Operation = typeof Opcode.READ | typeof Opcode.WRITE;

/** A buffer in the middle of memory that is lent by one end, and the peer's own memory. */
class Scene implements AsyncDisposable {
  readonly #stack = new AsyncDisposableStack();

  private constructor(
    readonly pair: DataPathPair,
    readonly memory: Memory,
    readonly lent: LentBuffer,
    readonly length: number,
  ) {}

  static async create(adapt: (device: Device) => void, length = PAGE): Promise<Scene> {
    const pair = await DataPathPair.create(adapt);
    const memory = new Memory(length + 2 * PAGE);
    memory.bytes.fill(OURS);
    const lent = pair.near.access.lend(memory, PAGE, length);
    const scene = new Scene(pair, memory, lent, length);
    scene.#stack.use(pair);
    scene.#stack.use(memory);
    scene.#stack.use(lent);
    return scene;
  }

  /** READs or WRITEs; gives what was read. */
  async reach(
    operation: Operation,
    remote: RemoteBuffer,
    length: number,
    end: PathEnd = this.pair.far,
  ): Promise<Uint8Array> {
    using own = new Memory(length);
    own.bytes.fill(operation === Opcode.WRITE ? THEIRS : 0);
    using region = end.access.registerMemory(own, ["LOCAL_WRITE"]);
    await Promise.race([
      end.access.transfer(operation, region, 0, length, remote),
      end.path.failure.then((error) => Promise.reject(error)),
    ]);
    return own.bytes.slice();
  }

  /** The code of the error that the peer's attempt ends with. */
  async refusal(
    operation: Operation,
    remote: RemoteBuffer,
    length: number,
    end?: PathEnd,
  ): Promise<string> {
    const reaching = this.reach(operation, remote, length, end);
    return (await deadline(assertRejects(() => reaching, VerbsealError), 5000)).code;
  }

  /** Grants the buffer to a peer that READs or WRITEs it without a pause, other bytes in turn. */
  async besiege(operation: Operation, direction: GrantDirection) {
    const { access, path } = this.pair.far;
    const { lent, length } = this;
    const remote = { address: lent.address, rkey: await lent.grant(direction) };
    const own = new Memory(2 * length);
    if (operation === Opcode.WRITE) own.bytes.fill(THEIRS, 0, length);
    const region = access.registerMemory(own, ["LOCAL_WRITE"]);
    const begun = Promise.withResolvers<void>();
    const repeat = async (at: number) => {
      for (;; begun.resolve()) await access.transfer(operation, region, at, length, remote);
    };
    const repeating = [0, length, 0, length].map((at) => repeat(at).catch(() => {}));
    await deadline(begun.promise, 5000);
    return {
      own,
      refused: deadline(path.failure.then(({ code }) => code), 5000),
      [Symbol.asyncDispose]: async () => {
        region[Symbol.dispose]();
        await path.close();
        await Promise.all(repeating);
        own[Symbol.dispose]();
      },
    };
  }

  /** As sessions do: where the queue pair has ended meanwhile, what is lent is given up. */
  async withdrawnOrFailed(): Promise<void> {
    const { lent, pair } = this;
    await Promise.race([
      lent.withdraw(),
      pair.near.path.failure.then(() => lent[Symbol.dispose]()),
    ]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

/** What a peer tries while 64 bytes are open to it, or were; all would succeed but for one thing. */
const trespasses: [
  what: string,
  direction: GrantDirection,
  operation: Operation,
  shift: number,
  length: number,
][] = [
  ["WRITE to the byte before", "write", Opcode.WRITE, -1, 1],
  ["WRITE to the byte after", "write", Opcode.WRITE, 64, 1],
  ["WRITE across the end", "write", Opcode.WRITE, 0, 65],
  ["READ the byte before", "read", Opcode.READ, -1, 1],
  ["READ the byte after", "read", Opcode.READ, 64, 1],
  ["READ across the end", "read", Opcode.READ, 0, 65],
  ["READ what it may WRITE", "write", Opcode.READ, 0, 64],
  ["WRITE to what it may READ", "read", Opcode.WRITE, 0, 64],
];

for (const [way, adapt] of ways) {
  verbsTest(
    `${way}: a peer reaches exactly what was granted, by another key each time`,
    async () => {
      await using scene = await Scene.create(adapt);
      const { lent, memory } = scene;
      const { address } = lent;
      let before: number | undefined;
      // More often than a window has keys.
      for (let round = 0; round < 300; round++) {
        const direction: GrantDirection = round % 2 === 0 ? "write" : "read";
        const length = 1 + round;
        const rkey = await lent.grant(direction, length);
        assert(rkey !== before, "another key");
        before = rkey;
        if (direction === "write") {
          await scene.reach(Opcode.WRITE, { address, rkey }, length);
        } else {
          const read = await scene.reach(Opcode.READ, { address, rkey }, length);
          assertEquals(read, memory.bytes.slice(PAGE, PAGE + length));
        }
        await lent.withdraw();
      }
      const written = [...memory.bytes.entries()].filter(([, byte]) => byte === THEIRS);
      assertEquals([written[0]![0], written.length], [PAGE, 299]);
    },
  );

  for (const [what, direction, operation, shift, length] of trespasses) {
    verbsTest(`${way}: a peer cannot ${what}`, async () => {
      await using scene = await Scene.create(adapt);
      const rkey = await scene.lent.grant(direction, 64);
      const remote = { address: scene.lent.address + shift, rkey };
      assertEquals(await scene.refusal(operation, remote, length), "ibv_wc_rem_access_err");
      assert(scene.memory.bytes.every((byte) => byte === OURS));
    });
  }

  for (const direction of ["read", "write"] as const) {
    const operation = direction === "read" ? Opcode.READ : Opcode.WRITE;
    const refused = (what: string, attempt: (scene: Scene) => Promise<string>) =>
      verbsTest(`${way}: a peer cannot ${direction} ${what}`, async () => {
        await using scene = await Scene.create(adapt);
        assertEquals(await attempt(scene), "ibv_wc_rem_access_err");
        assert(scene.memory.bytes.every((byte) => byte === OURS));
      });

    refused("a buffer that is lent and not granted yet", async (scene) => {
      const { lent, memory } = scene;
      using granted = scene.pair.near.access.lend(memory, 0, PAGE);
      const rkey = await granted.grant(direction);
      return await scene.refusal(operation, { address: lent.address, rkey }, 64);
    });

    refused("after the withdrawal", async (scene) => {
      const { lent } = scene;
      const rkey = await lent.grant(direction);
      await lent.withdraw();
      return await scene.refusal(operation, { address: lent.address, rkey }, 64);
    });

    refused("by the key of an earlier grant", async (scene) => {
      const { lent } = scene;
      const rkey = await lent.grant(direction);
      await lent.withdraw();
      await lent.grant(direction);
      return await scene.refusal(operation, { address: lent.address, rkey }, 64);
    });

    refused("what is lent no more, though nobody withdrew it", async (scene) => {
      const { lent } = scene;
      const rkey = await lent.grant(direction);
      lent[Symbol.dispose]();
      return await scene.refusal(operation, { address: lent.address, rkey }, 64);
    });

    refused("by what was granted to another session", async (scene) => {
      const { lent } = scene;
      const rkey = await lent.grant(direction);
      await using other = await DataPathPair.create();
      return await scene.refusal(operation, { address: lent.address, rkey }, 64, other.far);
    });
  }

  verbsTest(
    `${way}: a peer that WRITEs all the time changes nothing after the withdrawal`,
    async () => {
      await using scene = await Scene.create(adapt, LONG);
      const { memory } = scene;
      await using siege = await scene.besiege(Opcode.WRITE, "write");
      await scene.withdrawnOrFailed();
      const withdrawn = memory.bytes.slice();
      assertEquals(await siege.refused, "ibv_wc_rem_access_err");
      assert(withdrawn.every((byte, at) => byte === memory.bytes[at]));
    },
  );

  verbsTest(
    `${way}: a peer that READs all the time sees nothing of after the withdrawal`,
    async () => {
      await using scene = await Scene.create(adapt, LONG);
      await using siege = await scene.besiege(Opcode.READ, "read");
      await scene.withdrawnOrFailed();
      scene.memory.bytes.fill(LATER);
      assertEquals(await siege.refused, "ibv_wc_rem_access_err");
      assert(!siege.own.bytes.includes(LATER));
    },
  );

  verbsTest(`${way}: a buffer has one grant at a time, of bytes that it has`, async () => {
    await using scene = await Scene.create(adapt);
    const { lent } = scene;
    await lent.withdraw();
    await lent.grant("read");
    await assertRejects(() => lent.grant("write"), VerbsealError, "open to the peer already");
    await lent.withdraw();
    for (const length of [0, PAGE + 1]) {
      await assertRejects(() => lent.grant("read", length), RangeError, `${length} bytes`);
    }
    await lent.grant("read");
  });

  verbsTest(`${way}: a grant that is given up while it is made opens nothing`, async () => {
    await using scene = await Scene.create(adapt);
    const { lent } = scene;
    const granting = lent.grant("write");
    await lent.withdraw();
    const remote = { address: lent.address, rkey: await granting };
    assertEquals(await scene.refusal(Opcode.WRITE, remote, 1), "ibv_wc_rem_access_err");
  });

  verbsTest(
    `${way}: the end of the session ends grants, though nobody withdraws them any more`,
    async () => {
      await using scene = await Scene.create(adapt);
      const { lent, pair } = scene;
      await lent.grant("write");
      const remote = { address: lent.address, rkey: 0 };
      assertEquals(await scene.refusal(Opcode.WRITE, remote, 1), "ibv_wc_rem_access_err");
      await deadline(pair.near.path.failure, 5000);
      lent[Symbol.dispose]();
    },
  );
}

verbsTest(
  "a withdrawal is over when the registration has ended, and nothing is granted anew before",
  async () => {
    const { promise: end, resolve } = Promise.withResolvers<void>();
    await using scene = await Scene.create(endingLate(end));
    const { lent } = scene;
    const remote = { address: lent.address, rkey: await lent.grant("write") };
    let over = 0;
    const withdrawals = [1, 2].map(() => lent.withdraw().then(() => over += 1));
    await scene.reach(Opcode.WRITE, remote, 64);
    assertEquals(over, 0);
    await assertRejects(() => lent.grant("read"), VerbsealError, "open to the peer already");
    resolve();
    await deadline(Promise.all(withdrawals), 5000);
    assertEquals(await scene.refusal(Opcode.WRITE, remote, 64), "ibv_wc_rem_access_err");
  },
);

verbsTest(
  "the protection domain of a session that ends stays until other threads are through with it",
  async () => {
    const { promise: end, resolve } = Promise.withResolvers<void>();
    const ended: string[] = [];
    await using scene = await Scene.create(endingLate(end, ended));
    const { lent, pair } = scene;
    await lent.grant("write");
    const withdrawing = lent.withdraw();
    await setImmediate(); // it has begun
    lent[Symbol.dispose]();
    const closing = pair.near.path.close();
    await setImmediate();
    resolve();
    await deadline(Promise.all([closing, withdrawing]), 5000);
    assertEquals(ended, ["region", "protection domain"]);
  },
);

verbsTest("a session that ends while buffers are withdrawn leaves nothing of them", async () => {
  const before = await heldResources();
  const pair = await DataPathPair.create(guarded(false));
  using memory = new Memory(8 * LONG);
  const lent = Array.from(
    { length: 8 },
    (_, buffer) => pair.near.access.lend(memory, buffer * LONG, LONG),
  );
  for (const each of lent) await each.grant("write");
  const withdrawals = lent.map((each) => each.withdraw());
  await setImmediate(); // they have begun
  for (const each of lent) each[Symbol.dispose]();
  await pair[Symbol.asyncDispose]();
  await Promise.all(withdrawals);
  await assertHeld(before);
});
