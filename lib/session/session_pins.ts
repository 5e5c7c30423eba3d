import { defaultLimits } from "./limits.ts";

interface Pin<W> {
  readonly worker: W;
  paths: number;
  timer: ReturnType<typeof setTimeout> | undefined;
}

/**
 * Which worker has the data paths of a session, and what these have left unfinished: a session's
 * next queue pair, and the session that goes on with it, belong there too.
 */
export class SessionPins<W> implements Disposable {
  readonly #pins = new Map<string, Pin<W>>();

  /** @param seconds for which what is unfinished waits */
  constructor(private readonly seconds = defaultLimits.unfinishedSeconds) {}

  /** The worker of the first of these sessions that is known. */
  find(...sessions: (string | undefined)[]): W | undefined {
    for (const session of sessions) {
      const pin = session === undefined ? undefined : this.#pins.get(session);
      if (pin) return pin.worker;
    }
    return undefined;
  }

  /**
   * A data path of the session is opened.
   *
   * @returns what is to be called when it is closed
   */
  hold(session: string | undefined, worker: W): () => void {
    if (session === undefined) return () => {};
    const pin = this.#pins.get(session) ?? { worker, paths: 0, timer: undefined };
    this.#pins.set(session, pin);
    clearTimeout(pin.timer);
    pin.paths += 1;
    return () => {
      pin.paths -= 1;
      if (pin.paths > 0) return;
      pin.timer = setTimeout(() => this.#pins.delete(session), this.seconds * 1000);
      Deno.unrefTimer(pin.timer);
    };
  }

  [Symbol.dispose](): void {
    for (const { timer } of this.#pins.values()) clearTimeout(timer);
    this.#pins.clear();
  }
}
