import type { MemoryRegion } from "../rdma/memory_region.ts";
import type { QueuePair } from "../rdma/queue_pair.ts";
import { type Opcode, SendFlag, SendWorkRequests } from "../rdma/work_request.ts";
import type { RemoteBuffer } from "./service.ts";
import { Slots } from "./slots.ts";
import { WorkRequestId } from "./work_request_id.ts";

/** READs and WRITEs, and changes of memory windows, that a session has outstanding at most. */
export const TRANSFERS = 16;

/**
 * READs and WRITEs of a session's services, and changes of the memory windows through which the peer
 * makes its own: at most {@linkcode TRANSFERS} at once, the others wait in turn.
 */
export class Transfers {
  readonly #requests = new SendWorkRequests(TRANSFERS);
  readonly #slots = new Slots(TRANSFERS);

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
  run(prepare: (requests: SendWorkRequests, slot: number, wrId: number) => void): Promise<void> {
    return this.#slots.run((slot) => {
      prepare(this.#requests, slot, WorkRequestId.transfer(slot));
      this.queuePair.postSend(this.#requests, slot);
    });
  }

  completed(slot: number): void {
    this.#slots.complete(slot);
  }

  /** The session ends: all transfers under way and waiting are rejected. */
  abort(reason: Error): void {
    this.#slots.abort(reason);
  }
}
