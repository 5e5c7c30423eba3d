/** PSNs have 24 bits. */
const MODULUS = 2 ** 24;

/** Two PSNs of one queue pair number closer than this could mix up packets that are still under way. */
const DISTANCE = 2 ** 20;

/** How long a queue pair number's last PSN counts, in milliseconds. */
const MEMORY = 60_000;

/** A PSN from a cryptographic generator, uniform over 24 bits. */
function randomPsn(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0]! % MODULUS; // 2^32 is a multiple of 2^24
}

/** A PSN as tools print it. */
export function psnText(psn: number): string {
  return `0x${psn.toString(16).padStart(6, "0")}`;
}

function isNear(a: number, b: number): boolean {
  const difference = (a - b + MODULUS) % MODULUS;
  return Math.min(difference, MODULUS - difference) < DISTANCE;
}

/**
 * Draws the starting PSN of each queue pair of this process. A PSN is drawn again if it lies
 * within 2^20 of where the same queue pair number stood in the last 60 seconds, so that a late
 * packet of the former connection is outside of the new one's window.
 */
export class PsnSource {
  readonly #retired = new Map<number, { psn: number; until: number }>();

  /** @param random and now are parameters for tests */
  constructor(
    private readonly random: () => number = randomPsn,
    private readonly now: () => number = () => performance.now(),
  ) {}

  draw(qpn: number): number {
    this.#forget();
    const last = this.#retired.get(qpn);
    for (;;) {
      const psn = this.random();
      if (last === undefined || !isNear(psn, last.psn)) return psn;
    }
  }

  /** Notes where a queue pair's send PSN stood when it ended. */
  retire(qpn: number, psn: number): void {
    this.#retired.delete(qpn);
    this.#retired.set(qpn, { psn, until: this.now() + MEMORY });
  }

  /** Entries are in the order of their times: the old ones come first. */
  #forget(): void {
    const now = this.now();
    for (const [qpn, { until }] of this.#retired) {
      if (until > now) return;
      this.#retired.delete(qpn);
    }
  }
}
