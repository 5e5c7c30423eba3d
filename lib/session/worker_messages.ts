import type { LimitName, PlainError } from "../errors.ts";
import type { PortErrors } from "../rdma/device.ts";
import type { KernelTls } from "../tls/connection.ts";
import type { DetachedConnection } from "../tls/openssl_connection.ts";
import type { DataPathOptions, QueuePairPath, QueuePairPathOptions } from "./data_path.ts";
import type { ResumedTransfer } from "./service.ts";
import type { SessionUsage } from "./usage.ts";

/** Calls that the control thread makes on a worker: those of a data path, its making, and the worker's end. */
interface Methods extends Omit<QueuePairPath, "failure" | "onSlowed" | "onResumed"> {
  /** @param standardPort the embedded provider may take the UDP port that devices send to */
  open(options: QueuePairPathOptions, standardPort: boolean): Promise<void>;
  openStream(options: DataPathOptions): Promise<void>;
  /** @param connection is the worker's from then on, whatever it answers */
  use(connection: DetachedConnection): Promise<KernelTls>;
  /** Of all devices that the worker has open. */
  errorCounters(): Promise<PortErrors[]>;
  /** What services have done in all sessions that the worker has and has had. */
  usage(): Promise<SessionUsage>;
  stop(): Promise<void>;
}

export type Method = keyof Methods;
export type MethodArguments<M extends Method> = Parameters<Methods[M]>;
export type MethodResult<M extends Method> = Awaited<ReturnType<Methods[M]>>;

/** One call. `session` is the control thread's number for a data path. */
export type WorkerCall = {
  [M in Method]: {
    readonly call: number;
    readonly session: number;
    readonly method: M;
    readonly args: MethodArguments<M>;
  };
}[Method];

/**
 * What a worker says: a call's result or error, that a data path ended by itself, that a limit slows
 * it down, or that a transfer goes on.
 */
export type WorkerReport =
  | { readonly call: number; readonly result: unknown }
  | { readonly call: number; readonly error: PlainError }
  | { readonly session: number; readonly failure: PlainError }
  | { readonly session: number; readonly slowed: LimitName }
  | { readonly session: number; readonly resumed: ResumedTransfer };
