import type { Memory } from "../../ffi/memory.ts";
import type { Service } from "../control/messages.ts";
import { RefusedError } from "../errors.ts";
import type { Access, MemoryRegion } from "../rdma/memory_region.ts";
import type { Opcode } from "../rdma/work_request.ts";
import type { Permissions } from "../security/policy.ts";
import type { SessionSeal } from "../security/seal.ts";
import type { SessionTurns } from "./client_turns.ts";
import type { ServiceUsage } from "./usage.ts";

/** Kinds of the messages on a queue pair, by number on the wire. 0 returns credits. */
export const MessageKind = {
  PROOF: 1,
  ECHO: 16,
  REVERSE: 17,
  TIME: 18,
  ANSWER: 19,
  FILE_BUFFER_FREE: 32,
  FILE_CHUNK: 33,
  FILE_END: 34,
  FILE_ABORT: 35,
  FILE_OFFSET: 36,
} as const;

export type MessageKind = typeof MessageKind[keyof typeof MessageKind];

/** A range of registered memory. */
export interface RemoteBuffer {
  readonly address: number;
  readonly rkey: number;
}

/** What the peer may do under a grant. */
export type GrantDirection = "read" | "write";

/**
 * A range of memory that the peer reaches between a grant and its withdrawal only, for one
 * direction at a time. Disposing it ends the grant too.
 */
export interface LentBuffer extends Disposable {
  /** Of the first byte, as the peer names it. */
  readonly address: number;
  /**
   * Opens the buffer to the peer.
   *
   * @param length bytes from the first; all of them unless told
   * @returns the rkey, another than that of the grant before
   * @throws VerbsealError `grant` when it is open already
   */
  grant(direction: GrantDirection, length?: number): Promise<number>;
  /** Resolves when nothing that the peer sends reaches the buffer any more. */
  withdraw(): Promise<void>;
}

/** Where bytes of a file are. */
export interface FileRange {
  readonly descriptor: number;
  /** Of the first byte. */
  readonly position: number;
}

/** A put or get that goes on where an earlier one has ended. Plain data: it crosses threads. */
export interface ResumedTransfer {
  readonly operation: "put" | "get";
  readonly path: string;
  /** Bytes that the receiver has; of a get, as the client says. */
  readonly offset: number;
  /** Name of the session that has brought them, where this side knows. */
  readonly from?: string | undefined;
}

/** What a session's data path offers to what runs on it. */
export interface ServiceAccess {
  /** Sends a message; the body may be changed when it returns. */
  send(kind: MessageKind, id: number, body: Uint8Array): void;
  /**
   * Registers memory for as long as the region is not disposed, and not longer than the session.
   *
   * @throws RefusedError `registered_memory` when the peer may not have so much
   */
  registerMemory(
    memory: Memory,
    access: readonly Access[],
    offset?: number,
    length?: number,
  ): MemoryRegion;
  /**
   * Lends a range of memory to the peer, who has no access to it yet. It counts as registered for
   * as long as the buffer is not disposed, and is not lent longer than the session.
   *
   * @param memory must outlive the buffer
   * @throws RefusedError `registered_memory` when the peer may not have so much
   */
  lend(memory: Memory, offset?: number, length?: number): LentBuffer;
  /**
   * One READ or WRITE; resolves when it has completed.
   *
   * @throws WorkCompletionError when it failed, which ends the session too
   */
  transfer(
    opcode: typeof Opcode.READ | typeof Opcode.WRITE,
    local: MemoryRegion,
    localOffset: number,
    length: number,
    remote: RemoteBuffer,
  ): Promise<void>;
  /** Before each grant to a peer that may not have them as fast as it likes: resolves in its time. */
  readonly grantTurn?: (() => Promise<void>) | undefined;
  /** Seals what services move; undefined where the session is not sealed, or TLS does it. */
  readonly seal?: Pick<SessionSeal, "channel"> | undefined;
  /** What the session has of this thread: for what services do beside messages, a grant or a record at a time. */
  readonly turns?: Pick<SessionTurns, "turn" | "worked"> | undefined;
  /** What services let the peer do. */
  readonly permissions: Permissions;
  /** Who the peer is, at a server; those without a certificate are all the same. */
  readonly identity?: string | undefined;
  /** In whose quota is what outlives the session. */
  readonly owner?: string | undefined;
  /** Name of the session, at a server. */
  readonly session?: string | undefined;
  /** Told of each transfer that goes on. */
  readonly onResumed?: ((transfer: ResumedTransfer) => void) | undefined;
  /**
   * A WRITE of bytes of a file, which the kernel takes out of its page cache; undefined where it
   * cannot, and they have to be read first.
   *
   * @throws VerbsealError when it failed, which ends the session too
   */
  readonly writeFile?:
    | ((file: FileRange, length: number, remote: RemoteBuffer) => Promise<void>)
    | undefined;
  /** Aborts when the session ends. */
  readonly signal: AbortSignal;
}

/**
 * What a service's client works with.
 *
 * @param access with which it was started, if the server lets the session have the service
 * @throws RefusedError `service` if it does not
 */
export function startedWith(access: ServiceAccess | undefined, service: Service): ServiceAccess {
  if (access) return access;
  throw new RefusedError(
    "service",
    `the server lets this session have no service ${service}`,
    "ask who runs the server: it may offer none, or not to this client",
  );
}

/** One service of one session. Disposing it resolves when it uses none of its memory any more. */
export interface SessionService extends AsyncDisposable {
  /** At a server, what it has done up to now. */
  readonly usage?: ServiceUsage;
  /** Takes a message whose kind is one of the service's; the body is valid only until it returns. */
  message?(kind: MessageKind, id: number, body: Uint8Array): void;
  /** Answers a REQUEST. Throws to refuse it, which does not end the session. */
  request?(body: unknown): Promise<unknown>;
}

/** How a service is begun for a session. */
export interface ServiceDefinition {
  readonly name: Service;
  readonly kinds: readonly MessageKind[];
  start(access: ServiceAccess): SessionService;
  /** Ends what lasts longer than sessions. */
  [Symbol.dispose]?(): void;
}
