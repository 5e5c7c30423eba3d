import { Option } from "commander";
import { errorText, UsageError } from "../errors.ts";
import { raiseLockedMemoryLimit } from "../rdma/locked_memory.ts";
import { becomeUser, findUser, isRoot, type User } from "../security/user.ts";
import { logger } from "../telemetry/log.ts";

const log = logger("server");

/** Whom a server that was started as root becomes. */
export function userOption(): Option {
  return new Option(
    "--user <name>",
    "become this user once it listens, with no other group and no privilege: USER or USER:GROUP, " +
      "each a name or a number; all that is opened from then on must be open to it",
  ).argParser(findUser);
}

/** Leaves root's privileges, which a server needs for nothing but to listen on ports below 1024. */
export function dropPrivileges(user: User | undefined): void {
  if (user !== undefined) {
    raiseLockedMemoryLimit();
    becomeUser(user);
    log.info("privileges dropped", { user: user.name, uid: user.uid, gid: user.gid });
  } else if (isRoot()) {
    log.warning("the server runs as root, whose privileges it does not need", {
      remedy: "name another user with --user",
    });
  }
}

/**
 * Opens what a server opens again while it runs, as the user that it has become.
 *
 * @throws UsageError `user_denied` when that user may not; what `open` throws else
 */
export async function openAs<T>(user: User | undefined, open: () => Promise<T>): Promise<T> {
  try {
    return await open();
  } catch (error) {
    if (user === undefined || !isDenied(error)) throw error;
    throw new UsageError(
      "user_denied",
      `the user ${user.name} may not use what the server opens again while it runs: ` +
        errorText(error),
      "Give that user what it needs (chown, chmod), or name another",
      { cause: error },
    );
  }
}

/** Whether a permission was missing: Deno says so by a class, files opened by libc by a code. */
function isDenied(error: unknown): boolean {
  if (error instanceof Deno.errors.PermissionDenied) return true;
  if (!(error instanceof Error)) return false;
  return ("code" in error && error.code === "EACCES") || isDenied(error.cause);
}
