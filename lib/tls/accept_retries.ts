import { delay } from "@std/async/delay";
import { logger } from "../telemetry/log.ts";

const log = logger("tls");

/** Pause after a failed accept, in milliseconds: want of descriptors does not pass at once. */
const pauseMilliseconds = 50;

/** A listener's attempts to accept where the system lacks something for it. */
export class AcceptRetries {
  #inWantOf: string | undefined;

  /** There is enough again. */
  succeeded(): void {
    this.#inWantOf = undefined;
  }

  /** Says so, once until an attempt has succeeded, and waits before the next one. */
  async failed(reason: string): Promise<void> {
    if (reason !== this.#inWantOf) log.warning("a connection could not be accepted", { reason });
    this.#inWantOf = reason;
    await delay(pauseMilliseconds);
  }
}
