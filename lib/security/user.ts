import { constants } from "node:os";
import { cString } from "../../ffi/layout.ts";
import { C, check, group, libc, passwd, SystemError } from "../../ffi/libc.ts";
import { UsageError } from "../errors.ts";

/** A user that a process can become. */
export interface User {
  /** As it was asked for. */
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}

/** The largest number of a user or group: the next one means none to C (setresuid(2)). */
const MAX_ID = 2 ** 32 - 2;

/** Bytes of all strings of an entry, at first and at most. */
const STRING_BYTES = { first: 2 ** 10, most: 2 ** 20 };

/** With these errors, too, a look-up says that there is no such entry (getpwnam(3)). */
const { ENOENT, ESRCH, EBADF, EPERM } = constants.errno;
const NONE_FOUND = new Set([ENOENT, ESRCH, EBADF, EPERM]);

/**
 * Looks a user up as the C library does, in files or a directory service.
 *
 * @param text USER or USER:GROUP, each a name or a number; without a group it is the user's own
 * @throws UsageError `unknown_user`
 */
export function findUser(text: string): User {
  const [user = "", groupName, ...rest] = text.split(":");
  if (rest.length > 0 || user === "" || groupName === "") {
    throw unknown(`${JSON.stringify(text)} is not USER or USER:GROUP`);
  }
  const number = idOf(user);
  const entry = userEntry(number ?? user);
  const uid = number ?? entry?.get("pw_uid");
  if (uid === undefined) throw unknown(`there is no user ${user}`);
  const gid = groupName === undefined ? entry?.get("pw_gid") : findGroup(groupName);
  if (gid === undefined) {
    throw unknown(`the user ${user} has no entry that names a group`, `Name one: ${user}:GROUP`);
  }
  return { name: text, uid, gid };
}

/**
 * Makes the process that user's, with all its threads, and with no other group. What root may
 * (capabilities(7)) a process of another user may not, nor can this thread and those that it starts
 * become root again by a program that is set-uid.
 *
 * @throws UsageError `not_root` when this process may not
 */
export function becomeUser({ name, uid, gid }: User): void {
  // In this order: the last takes the right to make the others.
  const done = libc().setgroups(0n, null) === 0 && libc().setresgid(gid, gid, gid) === 0 &&
    libc().setresuid(uid, uid, uid) === 0;
  if (done) {
    check("prctl", libc().prctl(C.PR_SET_NO_NEW_PRIVS, 1n, 0n, 0n, 0n));
    return;
  }
  throw new UsageError(
    "not_root",
    `only root can become the user ${name}`,
    "Start the server as root, or as that user without --user",
  );
}

/** Whether this process is root's. */
export function isRoot(): boolean {
  return libc().geteuid() === 0;
}

/** The user's entry, by name or number. */
function userEntry(key: string | number) {
  const entry = passwd.allocate();
  const found = typeof key === "number"
    ? lookUp("getpwuid_r", (...room) => libc().getpwuid_r(key, entry.pointer, ...room))
    : lookUp("getpwnam_r", (...room) => libc().getpwnam_r(cString(key), entry.pointer, ...room));
  return found ? entry : undefined;
}

function findGroup(name: string): number {
  const number = idOf(name);
  if (number !== undefined) return number;
  const entry = group.allocate();
  if (lookUp("getgrnam_r", (...room) => libc().getgrnam_r(cString(name), entry.pointer, ...room))) {
    return entry.get("gr_gid");
  }
  throw unknown(`there is no group ${name}`);
}

/** The number that a text is; undefined when it is a name. */
function idOf(text: string): number | undefined {
  if (!/^\d+$/.test(text)) return undefined;
  const id = Number(text);
  if (id <= MAX_ID) return id;
  throw unknown(`${text} is no number of a user or group`);
}

/**
 * Makes a look-up with more room for strings until it has enough.
 *
 * @returns whether there is such an entry
 * @throws SystemError when nobody could be asked
 */
function lookUp(
  call: string,
  make: (
    strings: Uint8Array<ArrayBuffer>,
    bytes: bigint,
    result: BigUint64Array<ArrayBuffer>,
  ) => number,
): boolean {
  for (let bytes = STRING_BYTES.first;; bytes *= 4) {
    const result = new BigUint64Array(1);
    const error = make(new Uint8Array(bytes), BigInt(bytes), result);
    if (error === constants.errno.ERANGE && bytes < STRING_BYTES.most) continue;
    if (error !== 0 && !NONE_FOUND.has(error)) throw new SystemError(call, error);
    return result[0] !== 0n;
  }
}

function unknown(what: string, remedy = "See who there is with getent passwd and getent group") {
  return new UsageError("unknown_user", what, remedy);
}
