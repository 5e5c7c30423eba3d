import * as v from "valibot";
import { Memory } from "../../ffi/memory.ts";
import { RefusedError } from "../errors.ts";
import { Opcode } from "../rdma/work_request.ts";
import { requireAccess } from "../security/policy.ts";
import type { ClientSession } from "../session/client_session.ts";
import {
  type GrantDirection,
  type LentBuffer,
  type ServiceAccess,
  type ServiceDefinition,
  type SessionService,
  startedWith,
} from "../session/service.ts";
import { noUsage } from "../session/usage.ts";
import { decimal, parse, u32 } from "./schema.ts";
import { mostStagedBytes, StagedRecord } from "./staged_record.ts";

const requestSchema = v.variant("operation", [
  v.strictObject({
    operation: v.literal("grant"),
    direction: v.picklist(["write", "read"]),
    offset: decimal,
    length: decimal,
  }),
  v.strictObject({ operation: v.literal("withdraw") }),
]);

const grantSchema = v.strictObject({
  address: decimal,
  rkey: u32,
  /** Number of the operation, by which its keys are told from those of others. */
  transfer: u32,
});

/**
 * The server's side: lends a zeroed region to the session, and opens exactly the bytes asked for,
 * for one direction and one operation. Nothing is lent between a grant and the next. In a sealed
 * session the region itself is never lent, but a record: of what is read, or to be opened once it
 * was withdrawn.
 *
 * @param bytes size of the region
 */
export function memoryService(bytes: number): ServiceDefinition {
  return { name: "memory", kinds: [], start: (access) => new LentMemory(access, bytes) };
}

class LentMemory implements SessionService {
  readonly usage = noUsage();
  readonly #access: ServiceAccess;
  readonly #bytes: number;
  #memory: Memory | undefined;
  #lent: LentBuffer | undefined;
  /** What is lent in place of the region, where the session is sealed. */
  #record: StagedRecord | undefined;
  /** What becomes of it when it is withdrawn. */
  #direction: GrantDirection = "read";
  #transfers = 0;
  /** Requests are answered one after the other. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(access: ServiceAccess, bytes: number) {
    this.#access = access;
    this.#bytes = Math.min(bytes, access.permissions.registeredBytes);
  }

  request(body: unknown): Promise<unknown> {
    const answer = this.#last.then(() => this.#answer(body));
    this.#last = answer.catch(() => {});
    return answer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#last;
    this.#lent?.[Symbol.dispose]();
    this.#record?.[Symbol.dispose]();
    this.#memory?.[Symbol.dispose]();
  }

  #answer(body: unknown): Promise<unknown> {
    const request = parse(requestSchema, body);
    if (request.operation === "withdraw") return this.#withdraw();
    return this.#open(request.direction, Number(request.offset), Number(request.length));
  }

  async #open(direction: GrantDirection, offset: number, length: number) {
    this.usage.calls += 1;
    requireAccess(this.#access.permissions, direction);
    if (this.#lent) throw new RefusedError("grant", "the session has a grant already");
    checkBounds(offset, length, this.#bytes);
    await this.#access.grantTurn?.();
    const memory = this.#memory ??= new Memory(this.#bytes);
    const transfer = ++this.#transfers;
    using building = new DisposableStack();
    const record = this.#stage(memory, transfer, offset, length);
    if (record) building.use(record);
    if (direction === "read") record?.seal();
    const lent = building.use(
      record ? this.#access.lend(record.memory) : this.#access.lend(memory, offset, length),
    );
    const rkey = await lent.grant(direction);
    building.move();
    this.#lent = lent;
    this.#record = record;
    this.#direction = direction;
    this.usage[direction === "write" ? "received" : "sent"] += length;
    return { address: String(lent.address), rkey, transfer };
  }

  #stage(
    memory: Memory,
    transfer: number,
    offset: number,
    length: number,
  ): StagedRecord | undefined {
    const { seal } = this.#access;
    if (!seal) return undefined;
    const most = mostStagedBytes(this.#bytes);
    if (length > most) {
      throw new RefusedError("grant_bounds", `${length} bytes at once are more than ${most}`);
    }
    return new StagedRecord(seal.channel("memory", transfer), memory, offset, length, offset);
  }

  async #withdraw(): Promise<Record<string, never>> {
    const lent = this.#lent;
    if (!lent) throw new RefusedError("grant", "the session has no grant");
    await lent.withdraw();
    lent[Symbol.dispose]();
    this.#lent = undefined;
    using record = this.#record;
    this.#record = undefined;
    if (this.#direction === "write") record?.open();
    return {};
  }
}

function checkBounds(offset: number, length: number, bytes: number): void {
  if (length >= 1 && offset + length <= bytes) return;
  throw new RefusedError(
    "grant_bounds",
    `bytes ${offset} to ${offset + length} are not within the ${bytes} that are lent`,
  );
}

/** Bytes of the client's, and where in the region they belong. */
interface Range {
  readonly memory: Memory;
  readonly at: number;
  readonly length: number;
  readonly offset: number;
}

/** The client's side: WRITEs to and READs from the region that the server lends. */
export class MemoryClient implements ServiceDefinition, SessionService {
  readonly name = "memory";
  readonly kinds = [];
  #access: ServiceAccess | undefined;
  #running: Promise<unknown> = Promise.resolve();

  start(access: ServiceAccess): this {
    this.#access = access;
    return this;
  }

  /** @throws RefusedError when the range is not within the region */
  write(session: ClientSession, offset: number, bytes: Uint8Array): Promise<void> {
    return this.#run(async () => {
      using memory = new Memory(bytes.length);
      memory.bytes.set(bytes);
      await this.#operate(session, "write", memory, offset);
    });
  }

  /** @throws RefusedError when the range is not within the region */
  read(session: ClientSession, offset: number, length: number): Promise<Uint8Array> {
    return this.#run(async () => {
      using memory = new Memory(length);
      await this.#operate(session, "read", memory, offset);
      return memory.bytes.slice();
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#running;
  }

  #run<T>(operation: () => Promise<T>): Promise<T> {
    const running = operation();
    this.#running = running.catch(() => {});
    return running;
  }

  async #operate(
    session: ClientSession,
    direction: GrantDirection,
    memory: Memory,
    offset: number,
  ): Promise<void> {
    const access = startedWith(this.#access, this.name);
    const { registeredBytes } = session.agreed.welcome.limits;
    // All or nothing, also where it takes several operations.
    checkBounds(offset, memory.length, registeredBytes);
    const most = access.seal ? mostStagedBytes(registeredBytes) : memory.length;
    for (let at = 0; at < memory.length; at += most) {
      const length = Math.min(most, memory.length - at);
      await this.#move(access, session, direction, { memory, at, length, offset: offset + at });
    }
  }

  async #move(
    access: ServiceAccess,
    session: ClientSession,
    direction: GrantDirection,
    { memory, at, length, offset }: Range,
  ): Promise<void> {
    const range = { offset: String(offset), length: String(length) };
    const request = { operation: "grant", direction, ...range };
    const { transfer, ...grant } = parse(grantSchema, await session.request("memory", request));
    const channel = access.seal?.channel("memory", transfer);
    using record = channel && new StagedRecord(channel, memory, at, length, offset);
    if (direction === "write") record?.seal();
    const moved = record?.memory ?? memory;
    using region = access.registerMemory(moved, direction === "read" ? ["LOCAL_WRITE"] : []);
    const opcode = direction === "write" ? Opcode.WRITE : Opcode.READ;
    const remote = { address: Number(grant.address), rkey: grant.rkey };
    await access.transfer(opcode, region, 0, moved.length, remote);
    if (direction === "read") record?.open();
    await session.request("memory", { operation: "withdraw" });
  }
}
