/**
 * The counters of a user's embedded ports, where other processes of that user see them: a file for
 * each port, in memory. Of its one page, one half describes the port as JSON, the other is the numbers.
 *
 * The process that has the port locks its file. The kernel drops the lock with the process, however
 * that ends; a process ID would not tell, as it is used again and counts anew in each container.
 */
import { encodeHex } from "@std/encoding/hex";
import { constants } from "node:os";
import * as v from "valibot";
import { addressOf, cString, pointerOf, textOf } from "../../../ffi/layout.ts";
import { C, check, dirent, errno, libc, statxBuffer, SystemError } from "../../../ffi/libc.ts";

const PAGE_BYTES = 4096;
/** Where the numbers begin. */
const VALUES = PAGE_BYTES / 2;
const MAX_COUNTERS = (PAGE_BYTES - VALUES) / Float64Array.BYTES_PER_ELEMENT;

const descriptionSchema = v.object({
  address: v.string(),
  port: v.number(),
  pid: v.number(),
  names: v.pipe(v.array(v.string()), v.maxLength(MAX_COUNTERS)),
});

/** A port of a process that runs, and what it has counted. */
export interface PortCounters {
  readonly address: string;
  /** UDP port. */
  readonly port: number;
  readonly pid: number;
  readonly counters: Readonly<Record<string, number>>;
}

/** One number per counter, until it is disposed. */
export interface CounterValues extends Disposable {
  readonly values: Float64Array<ArrayBuffer>;
}

/** One for all processes of a user: XDG_RUNTIME_DIR differs between a service and a login session. */
function usualDirectory(): string {
  return `/dev/shm/verbseal-${libc().geteuid()}`;
}

/**
 * Makes the counters of a port, for {@linkcode listSharedCounters} of other processes to see. Where
 * that cannot be, as in a read-only container, they are this process's own.
 *
 * @param directory made when it is not there, and not used when others could write to it
 */
export function shareCounters(
  address: string,
  port: number,
  names: readonly string[],
  directory = usualDirectory(),
): CounterValues {
  try {
    return new SharedValues(directory, { address, port, pid: Deno.pid, names: [...names] });
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    return { values: new Float64Array(names.length), [Symbol.dispose]: () => {} };
  }
}

/** The ports of this user's processes. Removes what is left of processes that are gone. */
export function listSharedCounters(directory = usualDirectory()): PortCounters[] {
  try {
    using resources = new DisposableStack();
    const folder = openOwn(directory);
    const stream = libc().fdopendir(folder);
    resources.defer(() => libc().closedir(stream)); // closes the folder, too
    return namesIn(stream).flatMap((name) => read(folder, name) ?? []);
  } catch (error) {
    if (error instanceof SystemError) return [];
    throw error;
  }
}

class SharedValues implements CounterValues {
  readonly values: Float64Array<ArrayBuffer>;
  readonly #resources: DisposableStack;

  constructor(directory: string, description: v.InferOutput<typeof descriptionSchema>) {
    using building = new DisposableStack();
    // What it fails for, as when it is there, opening it tells.
    libc().mkdirat(C.AT_FDCWD, cString(directory), 0o700);
    const folder = openOwn(directory);
    building.defer(() => libc().close(folder));
    const file = createLocked(folder);
    building.defer(() => libc().close(file));
    writePage(file, JSON.stringify(description));
    const page = map(file);
    building.defer(() => unmap(page));
    const name = cString(encodeHex(crypto.getRandomValues(new Uint8Array(16))));
    link(file, folder, name);
    building.defer(() => libc().unlinkat(folder, name, 0));
    this.values = new Float64Array(page, VALUES, description.names.length);
    this.#resources = building.move();
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }
}

/** Opens a directory that is this user's alone: in /dev/shm anyone may make one of that name. */
function openOwn(directory: string): number {
  const flags = C.O_RDONLY | C.O_DIRECTORY | C.O_NOFOLLOW | C.O_CLOEXEC;
  const folder = check("openat", libc().openat(C.AT_FDCWD, cString(directory), flags, 0));
  const status = statxBuffer.allocate();
  const mask = C.STATX_MODE | C.STATX_UID;
  const failed = libc().statx(folder, cString(""), C.AT_EMPTY_PATH, mask, status.pointer) < 0;
  const ownOnly = status.get("stx_uid") === libc().geteuid() &&
    (status.get("stx_mode") & 0o077) === 0;
  if (!failed && ownOnly) return folder;
  libc().close(folder);
  throw new SystemError("openat", constants.errno.EPERM);
}

/** A file that nobody sees before it is linked: whoever sees it sees it whole, and locked. */
function createLocked(folder: number): number {
  const flags = C.O_TMPFILE | C.O_RDWR | C.O_CLOEXEC;
  const file = check("openat", libc().openat(folder, cString("."), flags, 0o600));
  libc().flock(file, C.LOCK_EX | C.LOCK_NB);
  return file;
}

function link(file: number, folder: number, name: Uint8Array<ArrayBuffer>): void {
  const path = cString(`/proc/self/fd/${file}`);
  check("linkat", libc().linkat(C.AT_FDCWD, path, folder, name, C.AT_SYMLINK_FOLLOW));
}

/** Writes all of the page, so that using it cannot fail later for want of memory. */
function writePage(file: number, description: string): void {
  const page = new Uint8Array(PAGE_BYTES);
  page.set(new TextEncoder().encode(description));
  const written = check("pwrite", libc().pwrite(file, pointerOf(page), BigInt(PAGE_BYTES), 0n));
  if (written < PAGE_BYTES) throw new SystemError("pwrite", constants.errno.ENOSPC);
}

function map(file: number): ArrayBuffer {
  const protection = C.PROT_READ | C.PROT_WRITE;
  const page = libc().mmap(null, BigInt(PAGE_BYTES), protection, C.MAP_SHARED, file, 0n);
  // MAP_FAILED is (void *) -1.
  if (page === null || addressOf(page) === 0xffff_ffff_ffff_ffffn) {
    throw new SystemError("mmap", errno());
  }
  return Deno.UnsafePointerView.getArrayBuffer(page, PAGE_BYTES) as ArrayBuffer;
}

/** Detaches the views first: one over unmapped memory would end the process. */
function unmap(page: ArrayBuffer): void {
  const pointer = pointerOf(new Uint8Array(page));
  page.transfer(0);
  libc().munmap(pointer, BigInt(PAGE_BYTES));
}

function namesIn(stream: Deno.PointerValue): string[] {
  const names: string[] = [];
  for (;;) {
    const entry = libc().readdir(stream);
    if (entry === null) return names.filter((name) => !name.startsWith("."));
    names.push(new Deno.UnsafePointerView(entry).getCString(dirent.offset("d_name")));
  }
}

function read(folder: number, name: string): PortCounters | undefined {
  const flags = C.O_RDONLY | C.O_NOFOLLOW | C.O_CLOEXEC;
  const file = libc().openat(folder, cString(name), flags, 0);
  if (file < 0) return undefined; // just removed
  using closing = new DisposableStack();
  closing.defer(() => libc().close(file));
  const isLeftBehind = libc().flock(file, C.LOCK_SH | C.LOCK_NB) === 0;
  if (isLeftBehind) libc().unlinkat(folder, cString(name), 0);
  return isLeftBehind ? undefined : decode(file);
}

/** Undefined when another version of the program has written something else. */
function decode(file: number): PortCounters | undefined {
  const page = new Uint8Array(PAGE_BYTES);
  libc().pread(file, pointerOf(page), BigInt(PAGE_BYTES), 0n);
  const description = v.safeParse(
    v.pipe(v.string(), v.parseJson(), descriptionSchema),
    textOf(page.subarray(0, VALUES)),
  );
  if (!description.success) return undefined;
  const { names, ...port } = description.output;
  const values = new Float64Array(page.buffer, VALUES);
  return {
    ...port,
    counters: Object.fromEntries(names.map((name, index) => [name, values[index]!])),
  };
}
