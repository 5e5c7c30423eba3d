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
import { decimal, parse, u32 } from "./schema.ts";

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
});

/**
 * The server's side: lends a zeroed region to the session, and opens exactly the bytes asked for,
 * for one direction and one operation. Nothing is lent between a grant and the next.
 *
 * @param bytes size of the region
 */
export function memoryService(bytes: number): ServiceDefinition {
  return { name: "memory", kinds: [], start: (access) => new LentMemory(access, bytes) };
}

class LentMemory implements SessionService {
  readonly #access: ServiceAccess;
  readonly #bytes: number;
  #memory: Memory | undefined;
  #lent: LentBuffer | undefined;
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
    this.#memory?.[Symbol.dispose]();
  }

  #answer(body: unknown): Promise<unknown> {
    const request = parse(requestSchema, body);
    if (request.operation === "withdraw") return this.#withdraw();
    return this.#open(request.direction, Number(request.offset), Number(request.length));
  }

  async #open(direction: GrantDirection, offset: number, length: number) {
    requireAccess(this.#access.permissions, direction);
    if (this.#lent) throw new RefusedError("grant", "the session has a grant already");
    if (length < 1 || offset + length > this.#bytes) {
      throw new RefusedError(
        "grant_bounds",
        `bytes ${offset} to ${offset + length} are not within the ${this.#bytes} that are lent`,
      );
    }
    await this.#access.grantTurn?.();
    this.#memory ??= new Memory(this.#bytes);
    using building = new DisposableStack();
    const lent = building.use(this.#access.lend(this.#memory, offset, length));
    const rkey = await lent.grant(direction);
    building.move();
    this.#lent = lent;
    return { address: String(lent.address), rkey };
  }

  async #withdraw(): Promise<Record<string, never>> {
    const lent = this.#lent;
    if (!lent) throw new RefusedError("grant", "the session has no grant");
    await lent.withdraw();
    lent[Symbol.dispose]();
    this.#lent = undefined;
    return {};
  }
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
    const grant = parse(
      grantSchema,
      await session.request("memory", {
        operation: "grant",
        direction,
        offset: String(offset),
        length: String(memory.length),
      }),
    );
    using region = access.registerMemory(memory, direction === "read" ? ["LOCAL_WRITE"] : []);
    const opcode = direction === "write" ? Opcode.WRITE : Opcode.READ;
    const remote = { address: Number(grant.address), rkey: grant.rkey };
    await access.transfer(opcode, region, 0, memory.length, remote);
    await session.request("memory", { operation: "withdraw" });
  }
}
