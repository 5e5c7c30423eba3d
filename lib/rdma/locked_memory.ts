import { C, check, libc, rlimit } from "../../ffi/libc.ts";

/** RLIM_INFINITY. */
const UNLIMITED = 2n ** 64n - 1n;

/** Bytes that this process may pin (RLIMIT_MEMLOCK), as registered memory is; Infinity for no limit. */
export function lockedMemoryLimit(): number {
  const bytes = limits().get("rlim_cur");
  return bytes === UNLIMITED ? Infinity : Number(bytes);
}

/**
 * Takes that limit away, or raises it as far as it may be: for root it does not hold (CAP_IPC_LOCK),
 * and so for a process that is about to be another user's it begins to.
 */
export function raiseLockedMemoryLimit(): void {
  const none = rlimit.allocate().set("rlim_cur", UNLIMITED).set("rlim_max", UNLIMITED);
  if (libc().setrlimit(C.RLIMIT_MEMLOCK, none.pointer) === 0) return;
  const most = limits();
  most.set("rlim_cur", most.get("rlim_max"));
  check("setrlimit", libc().setrlimit(C.RLIMIT_MEMLOCK, most.pointer));
}

function limits() {
  const limit = rlimit.allocate();
  check("getrlimit", libc().getrlimit(C.RLIMIT_MEMLOCK, limit.pointer));
  return limit;
}
