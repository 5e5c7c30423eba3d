import { C, check, libc, rlimit } from "../../ffi/libc.ts";

/** RLIM_INFINITY. */
const UNLIMITED = 2n ** 64n - 1n;

/** Bytes that this process may pin (RLIMIT_MEMLOCK), as registered memory is; Infinity for no limit. */
export function lockedMemoryLimit(): number {
  const limit = rlimit.allocate();
  check("getrlimit", libc().getrlimit(C.RLIMIT_MEMLOCK, limit.pointer));
  const bytes = limit.get("rlim_cur");
  return bytes === UNLIMITED ? Infinity : Number(bytes);
}
