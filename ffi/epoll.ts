import { C, check, epollEvent, errno, libc, SystemError } from "./libc.ts";
import { pointerOf } from "./layout.ts";
import { constants } from "node:os";

/** Events taken from the kernel by one call. */
const batch = 64;

/**
 * This thread's one blocking wait. Completion channels, asynchronous events and connection
 * manager events all wake through one epoll descriptor, because each non-blocking FFI call
 * occupies a thread, cannot be cancelled and loses errno. An eventfd ends the wait when nobody
 * waits any more, so that the thread can end.
 */
class Epoll {
  readonly #epoll = check("epoll_create1", libc().epoll_create1(C.EPOLL_CLOEXEC));
  readonly #wake = check("eventfd", libc().eventfd(0, C.EFD_CLOEXEC | C.EFD_NONBLOCK));
  readonly #waiting = new Map<number, PromiseWithResolvers<boolean>>();
  readonly #known = new Set<number>();
  readonly #events = new Uint8Array(new ArrayBuffer(epollEvent.size * batch));
  #running = false;

  constructor() {
    this.#control(C.EPOLL_CTL_ADD, this.#wake, C.EPOLLIN | C.EPOLLONESHOT);
  }

  /** Resolves to true when `fd` can be read, to false when it was given up by {@linkcode forget}. */
  readable(fd: number): Promise<boolean> {
    const pending = this.#waiting.get(fd);
    if (pending) return pending.promise;
    const operation = this.#known.has(fd) ? C.EPOLL_CTL_MOD : C.EPOLL_CTL_ADD;
    this.#control(operation, fd, C.EPOLLIN | C.EPOLLONESHOT);
    this.#known.add(fd);
    const waiter = Promise.withResolvers<boolean>();
    this.#waiting.set(fd, waiter);
    if (!this.#running) this.#run();
    return waiter.promise;
  }

  /** Stops waiting for `fd`. Call it before closing the descriptor. */
  forget(fd: number): void {
    if (this.#known.delete(fd)) this.#control(C.EPOLL_CTL_DEL, fd, 0);
    const waiter = this.#waiting.get(fd);
    this.#waiting.delete(fd);
    waiter?.resolve(false);
    if (this.#running && this.#waiting.size === 0) libc().eventfd_write(this.#wake, 1n);
  }

  #control(operation: number, fd: number, events: number): void {
    const event = epollEvent.allocate().set("events", events).set("data", BigInt(fd));
    check("epoll_ctl", libc().epoll_ctl(this.#epoll, operation, fd, event.pointer));
  }

  async #run(): Promise<void> {
    this.#running = true;
    while (this.#waiting.size > 0) {
      const count = await libc().epollWaitAsync(this.#epoll, pointerOf(this.#events), batch, -1);
      this.#deliver(count >= 0 ? count : this.#poll());
    }
    this.#running = false;
  }

  /** Takes what is there without waiting: after a wait that failed, as errno stays on that call's thread. */
  #poll(): number {
    const count = libc().epoll_wait(this.#epoll, pointerOf(this.#events), batch, 0);
    if (count >= 0) return count;
    const error = errno();
    if (error === constants.errno.EINTR) return 0;
    throw new SystemError("epoll_wait", error);
  }

  #deliver(count: number): void {
    for (let index = 0; index < count; index++) {
      const fd = Number(epollEvent.over(this.#events, index * epollEvent.size).get("data"));
      if (fd === this.#wake) this.#rearmWake();
      const waiter = this.#waiting.get(fd);
      this.#waiting.delete(fd);
      waiter?.resolve(true);
    }
  }

  #rearmWake(): void {
    const value = new BigUint64Array(new ArrayBuffer(8));
    libc().eventfd_read(this.#wake, pointerOf(value));
    this.#control(C.EPOLL_CTL_MOD, this.#wake, C.EPOLLIN | C.EPOLLONESHOT);
  }
}

let epoll: Epoll | undefined;

/** Resolves to true when `fd` can be read, to false when {@linkcode forget} gave it up. */
export function readable(fd: number): Promise<boolean> {
  return (epoll ??= new Epoll()).readable(fd);
}

/** Ends a wait for `fd`; call it before closing the descriptor. */
export function forget(fd: number): void {
  epoll?.forget(fd);
}

/** Makes calls on `fd` return at once, with EAGAIN, where they would wait. */
export function setNonblocking(fd: number): void {
  const flags = check("fcntl", libc().fcntl(fd, C.F_GETFL, 0));
  check("fcntl", libc().fcntl(fd, C.F_SETFL, flags | C.O_NONBLOCK));
}
