import { C, check, epollEvent, errno, libc, SystemError } from "./libc.ts";
import { pointerOf } from "./layout.ts";
import { Memory } from "./memory.ts";
import { constants } from "node:os";
import { setImmediate } from "node:timers/promises";

/** Events taken from the kernel by one call. */
const batch = 256;

/**
 * How long this thread looks by itself for what is to come soon, in milliseconds: several times what
 * it takes to have another thread wait, and be woken by it.
 */
const soonMilliseconds = 0.2;

type Waiter = PromiseWithResolvers<boolean>;

/** Who waits for a descriptor. */
interface Interest {
  readable?: Waiter | undefined;
  writable?: Waiter | undefined;
}

/**
 * This thread's one blocking wait. Completion channels, asynchronous events, connection manager
 * events and sockets all wake through one epoll descriptor, because each non-blocking FFI call
 * occupies a thread, cannot be cancelled and loses errno. An eventfd ends the wait when nobody
 * waits any more, so that the thread can end.
 */
class Epoll {
  readonly #epoll = check("epoll_create1", libc().epoll_create1(C.EPOLL_CLOEXEC));
  readonly #wake = check("eventfd", libc().eventfd(0, C.EFD_CLOEXEC | C.EFD_NONBLOCK));
  readonly #interests = new Map<number, Interest>();
  /** Interests that somebody waits for. */
  #waiting = 0;
  /**
   * Never unmapped: where JavaScript ends while the kernel still waits, as when a program exits, an
   * event that comes then is written here, and the memory of an ArrayBuffer would be others' by now.
   */
  readonly #events = new Memory(epollEvent.size * batch);
  readonly #eventViews = Array.from(
    { length: batch },
    (_, index) => epollEvent.over(this.#events.bytes, index * epollEvent.size),
  );
  readonly #change = epollEvent.allocate();
  #running: Promise<void> | undefined;
  #soonUntil = 0;

  constructor() {
    this.#control(C.EPOLL_CTL_ADD, this.#wake, C.EPOLLIN | C.EPOLLONESHOT);
  }

  /** Resolves to true when `fd` is ready for it, to false when it was given up by {@linkcode forget}. */
  ready(fd: number, use: keyof Interest, soon = false): Promise<boolean> {
    if (soon) this.#soonUntil = performance.now() + soonMilliseconds;
    const known = this.#interests.get(fd);
    const interest = known ?? {};
    const pending = interest[use];
    if (pending) return pending.promise;
    const waiter = interest[use] = Promise.withResolvers<boolean>();
    this.#arm(known ? C.EPOLL_CTL_MOD : C.EPOLL_CTL_ADD, fd, interest);
    this.#interests.set(fd, interest);
    this.#waiting += 1;
    this.#running ??= this.#run();
    return waiter.promise;
  }

  /** Stops waiting for `fd`. Call it before closing the descriptor. */
  forget(fd: number): void {
    const interest = this.#interests.get(fd);
    if (!interest) return;
    this.#control(C.EPOLL_CTL_DEL, fd, 0);
    this.#interests.delete(fd);
    this.#settle(interest, "readable", false);
    this.#settle(interest, "writable", false);
    if (this.#running && this.#waiting === 0) libc().eventfd_write(this.#wake, 1n);
  }

  #settle(interest: Interest, use: keyof Interest, ready: boolean): void {
    const waiter = interest[use];
    if (!waiter) return;
    interest[use] = undefined;
    this.#waiting -= 1;
    waiter.resolve(ready);
  }

  #arm(operation: number, fd: number, { readable, writable }: Interest): void {
    const events = (readable ? C.EPOLLIN : 0) | (writable ? C.EPOLLOUT : 0);
    this.#control(operation, fd, events | C.EPOLLONESHOT);
  }

  #control(operation: number, fd: number, events: number): void {
    const event = this.#change.set("events", events).set("data", BigInt(fd));
    check("epoll_ctl", libc().epoll_ctl(this.#epoll, operation, fd, event.pointer));
  }

  /** Resolves when nobody waits any more, and the kernel has let the thread go. */
  async idle(): Promise<void> {
    await this.#running;
  }

  async #run(): Promise<void> {
    while (this.#waiting > 0) {
      const found = await this.#pollForSoon();
      // Also when nobody waits any more: the eventfd has to be armed again.
      if (found > 0) this.#deliver(found);
      else if (this.#waiting > 0) await this.#waitAndDeliver();
    }
    this.#running = undefined;
  }

  async #waitAndDeliver(): Promise<void> {
    const count = await libc().epollWaitAsync(this.#epoll, this.#events.pointer, batch, -1);
    this.#deliver(count >= 0 ? count : this.#poll());
  }

  /** Looks for what is about to come, between other work of this thread. */
  async #pollForSoon(): Promise<number> {
    while (this.#waiting > 0 && performance.now() < this.#soonUntil) {
      await setImmediate();
      const count = this.#poll();
      if (count > 0) return count;
    }
    return 0;
  }

  /** Takes what is there without waiting: after a wait that failed, as errno stays on that call's thread. */
  #poll(): number {
    const count = libc().epoll_wait(this.#epoll, this.#events.pointer, batch, 0);
    if (count >= 0) return count;
    const error = errno();
    if (error === constants.errno.EINTR) return 0;
    throw new SystemError("epoll_wait", error);
  }

  #deliver(count: number): void {
    for (let index = 0; index < count; index++) {
      const event = this.#eventViews[index]!;
      const fd = Number(event.get("data"));
      if (fd === this.#wake) this.#rearmWake();
      else this.#deliverOne(fd, event.get("events"));
    }
  }

  #deliverOne(fd: number, events: number): void {
    const interest = this.#interests.get(fd);
    if (!interest) return;
    // An error and a hang-up concern both; the call that follows tells which it was.
    const broken = events & ~(C.EPOLLIN | C.EPOLLOUT);
    if (events & C.EPOLLIN || broken) this.#settle(interest, "readable", true);
    if (events & C.EPOLLOUT || broken) this.#settle(interest, "writable", true);
    // One event disarms both.
    if (interest.readable || interest.writable) this.#arm(C.EPOLL_CTL_MOD, fd, interest);
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
  return (epoll ??= new Epoll()).ready(fd, "readable");
}

/** As {@linkcode readable}, for what a peer that is at work answers at once. */
export function readableSoon(fd: number): Promise<boolean> {
  return (epoll ??= new Epoll()).ready(fd, "readable", true);
}

/** Resolves to true when `fd` can be written to, to false when {@linkcode forget} gave it up. */
export function writable(fd: number): Promise<boolean> {
  return (epoll ??= new Epoll()).ready(fd, "writable");
}

/** Ends all waits for `fd`; call it before closing the descriptor. */
export function forget(fd: number): void {
  epoll?.forget(fd);
}

/** Resolves when nobody in this thread waits for a descriptor, and the wait itself has ended. */
export async function idle(): Promise<void> {
  await epoll?.idle();
}

/** Makes calls on `fd` return at once, with EAGAIN, where they would wait. */
export function setNonblocking(fd: number): void {
  const flags = check("fcntl", libc().fcntl(fd, C.F_GETFL, 0));
  check("fcntl", libc().fcntl(fd, C.F_SETFL, flags | C.O_NONBLOCK));
}
