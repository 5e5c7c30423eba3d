import { constants } from "node:os";
import { cString, pointerAt, pointerOf } from "../../ffi/layout.ts";
import { C, check, errno, libc, openHow, statxBuffer, SystemError } from "../../ffi/libc.ts";
import type { Memory } from "../../ffi/memory.ts";
import { VerbsealError } from "../errors.ts";
import { closeFile } from "./close_file.ts";
import { umask } from "./umask.ts";

/** What a path may not do below a root: leave it, by `..`, as an absolute path or by a link (openat2(2)). */
const CONFINED = C.RESOLVE_BENEATH | C.RESOLVE_NO_SYMLINKS | C.RESOLVE_NO_MAGICLINKS;

/** Mode of a file in the making: nobody else reads what is not whole, or was not compared. */
const UNFINISHED_MODE = 0o600;

/** Sentences for the error numbers that users meet. */
const reasons: Readonly<Record<string, [text: string, remedy: string]>> = {
  ENOENT: ["there is no such file or directory", "check the path"],
  EXDEV: ["the path leaves the root", "name a file below the root"],
  ELOOP: ["the path has a symbolic link", "name the file itself"],
  EACCES: ["permission is denied", "check the permissions of file and directory"],
  EPERM: ["permission is denied", "check the permissions of file and directory"],
  ENOTDIR: ["a part of the path is no directory", "check the path"],
  EISDIR: ["there is a directory of this name", "choose another name"],
  ENOTEMPTY: ["there is a directory of this name", "choose another name"],
  ENOSPC: ["the disk is full", "free some space"],
  EDQUOT: ["the disk quota is used up", "free some space"],
  EROFS: ["the file system is read-only", "choose another directory"],
  ENAMETOOLONG: ["the name is too long", "choose a shorter one"],
  EFBIG: ["the file would be too large for its file system", "choose another one"],
};

/** A file that cannot be used. Its code is C's name of the error number where there is one. */
export class FileError extends VerbsealError {
  override readonly name = "FileError";

  constructor(path: string, code: string, reason: string, remedy: string) {
    super(code, `${path}: ${reason}`, remedy);
  }
}

function failure(path: string, error: unknown): unknown {
  if (!(error instanceof SystemError)) return error;
  const [reason, remedy] = reasons[error.code] ?? [error.message, ""];
  return new FileError(path, error.code, reason, remedy);
}

/** Opens relative to a directory; the descriptor closes when the program executes another one. */
function openAt(directory: number, name: string, flags: number, resolve: number): number {
  const how = openHow.allocate().set("flags", BigInt(flags | C.O_CLOEXEC))
    .set("mode", flags & C.O_CREAT ? BigInt(UNFINISHED_MODE) : 0n)
    .set("resolve", BigInt(resolve));
  const path = cString(name);
  return check(
    "openat2",
    libc().syscall(
      BigInt(C.SYS_openat2),
      BigInt(directory),
      pointerOf(path),
      how.pointer,
      BigInt(openHow.size),
    ),
  );
}

/** A regular file that is read and written from memory of a fixed address, by threads of their own. */
export class RegularFile implements Disposable {
  #open = true;

  /** @param fd is this object's to close */
  private constructor(readonly path: string, readonly fd: number, readonly size: number) {}

  /** @throws FileError when it is no regular file */
  static of(path: string, fd: number): RegularFile {
    using closing = new DisposableStack();
    closing.defer(() => libc().close(fd));
    const status = statxBuffer.allocate();
    const mask = C.STATX_TYPE | C.STATX_SIZE;
    check("statx", libc().statx(fd, cString(""), C.AT_EMPTY_PATH, mask, status.pointer));
    if ((status.get("stx_mode") & C.S_IFMT) !== C.S_IFREG) {
      throw new FileError(path, "not_a_file", "it is no regular file", "name a regular file");
    }
    closing.move();
    return new RegularFile(path, fd, Number(status.get("stx_size")));
  }

  /**
   * Fills `length` bytes of memory.
   *
   * @returns bytes read: fewer only at the end of the file
   */
  async read(memory: Memory, at: number, length: number, position: number): Promise<number> {
    let done = 0;
    while (done < length) {
      const target = pointerAt(BigInt(memory.address + at + done));
      const count = await this.#retried(
        "pread",
        (call) => libc()[call](this.fd, target, BigInt(length - done), BigInt(position + done)),
      );
      if (count === 0) break;
      done += count;
    }
    return done;
  }

  /** Writes all of `length` bytes of memory. */
  async write(memory: Memory, at: number, length: number, position: number): Promise<void> {
    for (let done = 0; done < length;) {
      const source = pointerAt(BigInt(memory.address + at + done));
      done += await this.#retried(
        "pwrite",
        (call) => libc()[call](this.fd, source, BigInt(length - done), BigInt(position + done)),
      );
    }
  }

  /** Resolves when the file is on disk. */
  async sync(): Promise<void> {
    try {
      await sync(this.fd);
    } catch (error) {
      throw failure(this.path, error);
    }
  }

  [Symbol.dispose](): void {
    if (this.#open) closeFile(this.fd);
    this.#open = false;
  }

  /** A call on another thread leaves its errno there: one that failed is made once more on this thread. */
  async #retried<N extends "pread" | "pwrite">(
    name: N,
    make: (call: N | `${N}Async`) => bigint | Promise<bigint>,
  ): Promise<number> {
    const result = Number(await make(`${name}Async`));
    if (result >= 0) return result;
    const again = Number(make(name));
    if (again >= 0) return again;
    throw failure(this.path, new SystemError(name, errno()));
  }
}

/**
 * Resolves when what a descriptor stands for is on disk. The kernel reports bytes that it could not
 * write once (fsync(2)), so asking again for errno may succeed and still means that they are lost.
 */
async function sync(fd: number): Promise<void> {
  if (await libc().fsyncAsync(fd) === 0) return;
  throw new SystemError("fsync", libc().fsync(fd) < 0 ? errno() : constants.errno.EIO);
}

/** A file in the making: under a temporary name, its user's alone, until it is committed; gone if it never is. */
export class NewFile implements Disposable {
  #temporary: string | undefined;
  #disposed = false;

  constructor(
    readonly file: RegularFile,
    private readonly directory: number,
    private readonly name: string,
    temporary: string,
  ) {
    this.#temporary = temporary;
  }

  /**
   * Puts the file under its name, with the mode that scp(1) and rsync(1) leave it without -p; resolves
   * when file and name are on disk. The blocks of a large file that had the name are free soon after.
   */
  async commit(): Promise<void> {
    const { directory, name } = this;
    // While it is open its blocks are not freed, and the new name does not wait for that.
    let replaced: number | undefined;
    try {
      replaced = openReplaced(directory, name);
      // Where it fails, as on FAT, which keeps no modes, the file is no more open than it was.
      libc().fchmod(this.file.fd, finalMode(replaced));
      await this.file.sync();
      check(
        "renameat",
        libc().renameat(directory, cString(this.#temporary!), directory, cString(name)),
      );
      this.#temporary = undefined;
      await syncDirectory(directory);
    } catch (error) {
      throw failure(this.file.path, error);
    } finally {
      if (replaced !== undefined) closeFile(replaced);
    }
  }

  [Symbol.dispose](): void {
    // The descriptors may be others' by the second time.
    if (this.#disposed) return;
    this.#disposed = true;
    if (this.#temporary !== undefined) {
      libc().unlinkat(this.directory, cString(this.#temporary), 0);
      this.#temporary = undefined;
    }
    this.file[Symbol.dispose]();
    libc().close(this.directory);
  }
}

/** What is about to lose its name; undefined when nothing has it. */
function openReplaced(directory: number, name: string): number | undefined {
  try {
    return openAt(directory, name, C.O_PATH | C.O_NOFOLLOW, 0);
  } catch (error) {
    if (error instanceof SystemError && error.code === "ENOENT") return undefined;
    throw error;
  }
}

/**
 * The mode of the regular file of ours that is replaced, and of a new one what the umask leaves: who
 * has planted a file in the place must not decide who may read and change ours.
 */
function finalMode(replaced: number | undefined): number {
  if (replaced !== undefined) {
    const status = statxBuffer.allocate();
    const mask = C.STATX_TYPE | C.STATX_MODE | C.STATX_UID;
    check("statx", libc().statx(replaced, cString(""), C.AT_EMPTY_PATH, mask, status.pointer));
    const mode = status.get("stx_mode");
    const isOurs = status.get("stx_uid") === libc().geteuid();
    if (isOurs && (mode & C.S_IFMT) === C.S_IFREG) return mode & 0o777;
  }
  return 0o666 & ~umask();
}

/** A name is only as durable as its directory (fsync(2)). O_PATH descriptors cannot be synced. */
async function syncDirectory(directory: number): Promise<void> {
  const fd = openAt(directory, ".", C.O_RDONLY | C.O_DIRECTORY, 0);
  try {
    await sync(fd);
  } catch (error) {
    // Some file systems cannot sync directories.
    if (!(error instanceof SystemError && error.code === "EINVAL")) throw error;
  } finally {
    libc().close(fd);
  }
}

/** A directory below which files are read and written; with `confined` no path leads out of it. */
export class Directory implements Disposable {
  readonly #fd: number;
  readonly #resolve: number;

  /**
   * @param options.below the path is relative to this directory, and as confined
   * @throws FileError when it is no directory or may not be used
   */
  constructor(readonly path: string, options: { confined: boolean; below?: Directory }) {
    const { confined, below } = options;
    this.#resolve = confined ? CONFINED : 0;
    try {
      this.#fd = openAt(
        below ? below.#fd : C.AT_FDCWD,
        path,
        C.O_PATH | C.O_DIRECTORY,
        below ? below.#resolve : 0,
      );
    } catch (error) {
      throw failure(path, error);
    }
  }

  /** @throws FileError when it is not there, or no regular file, or not below the directory */
  openFile(path: string): RegularFile {
    try {
      // Without O_NONBLOCK opening a FIFO would wait for its other end.
      return RegularFile.of(
        path,
        openAt(this.#fd, checkedPath(path), C.O_RDONLY | C.O_NONBLOCK, this.#resolve),
      );
    } catch (error) {
      throw failure(path, error);
    }
  }

  /** Creates a file; its directory must be there. One of the same name is replaced when it is committed. */
  createFile(path: string): NewFile {
    const { parent, name } = split(checkedPath(path));
    const temporary = `.verbseal-${crypto.randomUUID()}.part`;
    let directory: number | undefined;
    try {
      directory = openAt(this.#fd, parent, C.O_PATH | C.O_DIRECTORY, this.#resolve);
      const flags = C.O_WRONLY | C.O_CREAT | C.O_EXCL;
      const file = RegularFile.of(path, openAt(directory, temporary, flags, this.#resolve));
      return new NewFile(file, directory, name, temporary);
    } catch (error) {
      if (directory !== undefined) libc().close(directory);
      throw failure(path, error);
    }
  }

  [Symbol.dispose](): void {
    libc().close(this.#fd);
  }
}

function checkedPath(path: string): string {
  if (path === "" || path.includes("\0")) {
    throw new FileError(JSON.stringify(path), "path", "it is no path", "name a file");
  }
  return path;
}

function split(path: string): { parent: string; name: string } {
  const slash = path.lastIndexOf("/");
  const name = path.slice(slash + 1);
  if (name === "" || name === "." || name === "..") {
    throw new FileError(path, "path", "it names a directory", "name a file");
  }
  return { parent: slash < 0 ? "." : path.slice(0, slash) || "/", name };
}
