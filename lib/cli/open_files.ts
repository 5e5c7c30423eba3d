import { C, check, libc, rlimit } from "../../ffi/libc.ts";
import type { Limits } from "../session/limits.ts";
import { logger } from "../telemetry/log.ts";

const log = logger("server");

/** Descriptors of a session as a rule: its connections, its queue pair, and files that it moves. */
const ofSession = 4;
/** Descriptors of the program itself: libraries, devices, threads, listeners and logs. */
const ofProgram = 128;

/** How many files a server may have open at once, so that it can hold the clients that it lets in. */
export function openFilesFor(
  { clients, handshakes, messageClients }: Limits,
  servesMessages: boolean,
): number {
  return ofProgram + handshakes + clients * ofSession + (servesMessages ? messageClients : 0);
}

/**
 * Lets this process have as many files open as the system allows it at most: many systems begin
 * with 1024 (setrlimit(2)). Warns where that is less than `needed`.
 */
export function raiseOpenFileLimit(needed: number): void {
  const limit = rlimit.allocate();
  check("getrlimit", libc().getrlimit(C.RLIMIT_NOFILE, limit.pointer));
  const most = limit.get("rlim_max");
  limit.set("rlim_cur", most);
  check("setrlimit", libc().setrlimit(C.RLIMIT_NOFILE, limit.pointer));
  if (most >= BigInt(needed)) return;
  log.warning("this process may open fewer files than its limits on clients want", {
    openFiles: Number(most),
    needed,
    remedy: `raise the limit (ulimit -Hn, LimitNOFILE=${needed}), or lower --max-clients and ` +
      "--max-message-clients",
  });
}
