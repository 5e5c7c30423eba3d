import type { MemoryRegion } from "../rdma/memory_region.ts";
import type { QueuePair } from "../rdma/queue_pair.ts";
import { type Opcode, SendFlag, SendWorkRequests } from "../rdma/work_request.ts";
import type { RemoteBuffer } from "./service.ts";
import { WorkRequestId } from "./work_request_id.ts";

/** READs and WRITEs, and changes of memory windows, that a session has outstanding at most. */
export const TRANSFERS = 16;

/**
 * READs and WRITEs of a session's services, and changes of the memory windows through which the peer
 * makes its own: at most {@linkcode TRANSFERS} at once, the others wait in turn.
 */
export class Transfers {
  readonly #requests = new SendWorkRequests(TRANSFERS);
  readonly #free = Array.from({ length: TRANSFERS }, (_, slot) => slot);
  readonly #pending = new Map<number, PromiseWithResolvers<void>>();
  readonly #waiting: PromiseWithResolvers<void>[] = [];
  #aborted: Error | undefined;

  constructor(private readonly queuePair: QueuePair) {}

  /** Resolves when the transfer has completed; rejects when the session ends before. */
  start(
    opcode: typeof Opcode.READ | typeof Opcode.WRITE,
    local: MemoryRegion,
    localOffset: number,
    length: number,
    remote: RemoteBuffer,
  ): Promise<void> {
    return this.run((requests, slot, wrId) =>
      requests.prepare(slot, wrId, opcode, SendFlag.SIGNALED)
        .buffer(slot, local.address + localOffset, length, local.lkey)
        .remote(slot, remote.address, remote.rkey)
    );
  }

  /** Resolves when a signalled request has completed; rejects when the session ends before. */
  async run(
    prepare: (requests: SendWorkRequests, slot: number, wrId: number) => void,
  ): Promise<void> {
    // Nothing may come between taking a slot and waiting for its completion: abort() finds who waits.
    let slot = this.#takeSlot();
    while (slot === undefined) {
      await this.#turn();
      slot = this.#takeSlot();
    }
    try {
      prepare(this.#requests, slot, WorkRequestId.transfer(slot));
      this.queuePair.postSend(this.#requests, slot);
    } catch (error) {
      this.#giveSlotBack(slot);
      throw error;
    }
    const done = Promise.withResolvers<void>();
    this.#pending.set(slot, done);
    await done.promise;
  }

  completed(slot: number): void {
    this.#pending.get(slot)?.resolve();
    this.#pending.delete(slot);
    this.#giveSlotBack(slot);
  }

  /** The session ends: all transfers under way and waiting are rejected. */
  abort(reason: Error): void {
    this.#aborted = reason;
    for (const { reject } of [...this.#pending.values(), ...this.#waiting]) reject(reason);
    this.#pending.clear();
    this.#waiting.length = 0;
  }

  #giveSlotBack(slot: number): void {
    this.#free.push(slot);
    this.#waiting.shift()?.resolve();
  }

  /** Undefined when all are taken. */
  #takeSlot(): number | undefined {
    if (this.#aborted) throw this.#aborted;
    return this.#free.pop();
  }

  #turn(): Promise<void> {
    const turn = Promise.withResolvers<void>();
    this.#waiting.push(turn);
    return turn.promise;
  }
}
