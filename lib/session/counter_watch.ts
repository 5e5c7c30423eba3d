import { errorText } from "../errors.ts";
import type { PortErrors } from "../rdma/device.ts";
import type { Audit } from "../security/audit.ts";
import { logger } from "../telemetry/log.ts";

const log = logger("counters");

/** How often counters are looked at, in milliseconds. */
const LOOK_MILLISECONDS = 5000;

/** Counters that lost packets and a loaded peer move as well: of them alone nobody need be warned. */
const everyday = /duplicate|timeout|rnr|retry|packet_seq|nak_seq|rcvd_seq|discard|drop/i;

type Counters = Readonly<Record<string, number>>;

/**
 * Looks whether ports have counted errors: packets with a wrong PSN, key or checksum are dropped
 * where nobody sees it, and what guesses keys or numbers shows here only.
 */
export class CounterWatch implements AsyncDisposable {
  readonly #known = new Map<string, Counters>();
  readonly #timer: number;
  #looking: Promise<void> | undefined;

  /** @param look gives the counters of all ports in use; a port may come more than once */
  constructor(
    private readonly look: () => Promise<PortErrors[]>,
    private readonly audit: Pick<Audit, "record"> | undefined,
    milliseconds = LOOK_MILLISECONDS,
  ) {
    this.#timer = setInterval(() => this.#compare(), milliseconds);
  }

  /** Looks once more. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await this.#looking;
    await this.#compare();
  }

  /** One look at a time, be it that a worker takes long to answer. */
  #compare(): Promise<void> {
    return this.#looking ??= this.#lookAtAll().finally(() => this.#looking = undefined);
  }

  async #lookAtAll(): Promise<void> {
    try {
      for (const port of await this.look()) this.#lookAt(port);
    } catch (error) {
      log.error("counters of ports cannot be read", { reason: errorText(error) });
    }
  }

  #lookAt({ name: port, older, counters }: PortErrors): void {
    const before = this.#known.get(port) ?? (older ? counters : {});
    this.#known.set(port, counters);
    const moved = increases(before, counters);
    const names = Object.keys(moved);
    if (names.length === 0) return;
    const level = names.every((name) => everyday.test(name)) ? "info" : "warning";
    log[level]("a port has counted errors", { port, moved });
    this.audit?.record({ event: "counters", port, moved }).catch(() => {});
  }
}

/** By how much counters have grown; one that is smaller than it was began anew. */
function increases(before: Counters, now: Counters): Counters {
  const grown = Object.entries(now).map(([name, value]): [string, number] => {
    const last = before[name] ?? 0;
    return [name, value < last ? value : value - last];
  });
  return Object.fromEntries(grown.filter(([, by]) => by > 0));
}
