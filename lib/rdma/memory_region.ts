import { V } from "../../ffi/libibverbs.ts";

/**
 * What a device may do with registered memory or through a queue pair, and whether memory windows
 * may be bound to it (enum ibv_access_flags).
 */
export type Access = "LOCAL_WRITE" | "REMOTE_WRITE" | "REMOTE_READ" | "REMOTE_ATOMIC" | "MW_BIND";

/** Access flags as C has them. */
export function accessFlags(access: readonly Access[]): number {
  return access.reduce((flags, name) => flags | V[`IBV_ACCESS_${name}`], 0);
}

/** Registered memory. Disposing it ends all access of the device and of the peer. */
export interface MemoryRegion extends Disposable {
  /** Address of the first byte, for work requests here and at the peer. */
  readonly address: number;
  /** Bytes. */
  readonly length: number;
  /** Names the region in local work requests. */
  readonly lkey: number;
  /** Names the region in the peer's work requests. */
  readonly rkey: number;
}
