/** A memory service with a countermeasure taken out. */
import { Memory } from "../../ffi/memory.ts";
import type { Access, MemoryRegion } from "../../lib/rdma/memory_region.ts";
import type {
  ServiceAccess,
  ServiceDefinition,
  SessionService,
} from "../../lib/session/service.ts";

const BYTES = 65536;

/** What it does not mind. Without any of these it grants as the program does. */
export interface Carelessness {
  /** Sessions get the memory as the one before has left it. */
  readonly handsDirtyMemoryOn?: boolean;
  /** A withdrawal only says that it is one. */
  readonly keepsGrants?: boolean;
  /** A further grant is opened while there is one, and the withdrawal ends the last. */
  readonly grantsSeveral?: boolean;
  /** The whole memory is exposed, whatever was asked for. */
  readonly exposesAll?: boolean;
  /** A grant is for both directions. */
  readonly grantsBothWays?: boolean;
}

interface GrantRequest {
  readonly operation: "grant" | "withdraw";
  readonly direction: "read" | "write";
  readonly offset: string;
  readonly length: string;
}

/** Instead of the program's own memory service among these. */
export function withCarelessMemory(
  carelessness: Carelessness,
): (definitions: readonly ServiceDefinition[]) => readonly ServiceDefinition[] {
  const shared = carelessness.handsDirtyMemoryOn ? new Memory(BYTES) : undefined;
  const careless: ServiceDefinition = {
    name: "memory",
    kinds: [],
    start: (access) => new CarelessMemory(access, carelessness, shared),
  };
  return (definitions) => definitions.map((each) => each.name === "memory" ? careless : each);
}

class CarelessMemory implements SessionService {
  readonly #access: ServiceAccess;
  readonly #carelessness: Carelessness;
  readonly #memory: Memory;
  readonly #resources = new DisposableStack();
  readonly #grants: MemoryRegion[] = [];

  constructor(access: ServiceAccess, carelessness: Carelessness, shared: Memory | undefined) {
    this.#access = access;
    this.#carelessness = carelessness;
    this.#memory = shared ?? this.#resources.use(new Memory(BYTES));
  }

  // deno-lint-ignore require-await -- refusals become rejections
  async request(body: unknown): Promise<unknown> {
    const { operation, direction, offset, length } = body as GrantRequest;
    if (operation === "withdraw") return this.#withdraw();
    if (this.#grants.length > 0 && !this.#carelessness.grantsSeveral) throw new Error("a grant");
    const grant = this.#register(direction, Number(offset), Number(length));
    this.#grants.push(grant);
    const beyond = this.#carelessness.exposesAll ? Number(offset) : 0;
    return { address: String(grant.address + beyond), rkey: grant.rkey };
  }

  // deno-lint-ignore require-await -- nothing to wait for
  async [Symbol.asyncDispose](): Promise<void> {
    this.#resources.dispose();
  }

  #register(direction: "read" | "write", offset: number, length: number): MemoryRegion {
    const { exposesAll, grantsBothWays } = this.#carelessness;
    const access: Access[] = grantsBothWays
      ? ["LOCAL_WRITE", "REMOTE_WRITE", "REMOTE_READ"]
      : direction === "write"
      ? ["LOCAL_WRITE", "REMOTE_WRITE"]
      : ["REMOTE_READ"];
    const range = exposesAll ? [] : [offset, length];
    return this.#resources.use(this.#access.registerMemory(this.#memory, access, ...range));
  }

  #withdraw(): Record<string, never> {
    const grant = this.#grants.pop();
    if (!this.#carelessness.keepsGrants) grant?.[Symbol.dispose]();
    return {};
  }
}
