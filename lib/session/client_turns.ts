import { setImmediate } from "node:timers";

/** Milliseconds of a thread that all sessions of a client have together in a round. */
const SLICE = 0.5;

/** One client at a thread. */
interface Client {
  sessions: number;
  /** Milliseconds that it has had of this round, and owes of earlier ones: a session's work is not cut short. */
  had: number;
  /** Its sessions that wait, the first one first. */
  readonly waiting: (() => void)[];
}

/**
 * Shares a thread among clients, not among sessions: who has opened more of them has more that wait for
 * each other. A round is one of the thread's event loop, in which whatever is ready has its turn.
 */
export class ClientTurns {
  readonly #clients = new Map<string, Client>();
  /** Those of whom a session waits. */
  readonly #waiting = new Set<Client>();

  /** @param afterRound calls back when all has had its turn that is ready now */
  constructor(
    private readonly afterRound: (callback: () => void) => unknown = setImmediate,
  ) {}

  /** A session of a client begins; disposing it ends it. */
  join(name: string): SessionTurns {
    const client = this.#clients.get(name) ?? { sessions: 0, had: 0, waiting: [] };
    this.#clients.set(name, client);
    client.sessions += 1;
    return new SessionTurns(client, this, () => {
      client.sessions -= 1;
      if (client.sessions === 0) this.#clients.delete(name);
    });
  }

  /** Whether there is one client, who takes no other's time. */
  get hasOne(): boolean {
    return this.#clients.size === 1;
  }

  /** Resolves in this client's turn in a later round. */
  wait(client: Client): Promise<void> {
    if (this.#waiting.size === 0) this.afterRound(this.#nextRound);
    this.#waiting.add(client);
    return new Promise((resolve) => client.waiting.push(resolve));
  }

  #nextRound = () => {
    for (const client of this.#waiting) {
      client.had = Math.max(0, client.had - SLICE);
      if (wakeNext(client)) continue;
      if (client.waiting.length === 0) this.#waiting.delete(client);
    }
    if (this.#waiting.size > 0) this.afterRound(this.#nextRound);
  };
}

/** What a session has of a thread. */
export class SessionTurns implements Disposable {
  #ended = false;

  constructor(
    private readonly client: Client,
    private readonly turns: ClientTurns,
    private readonly end: () => void,
  ) {}

  /** Resolves when it may work: at once, unless all sessions of the client have had their time. */
  async turn(): Promise<void> {
    if (this.mustWait) await this.turns.wait(this.client);
  }

  /** Whether {@linkcode turn} would not resolve at once. */
  get mustWait(): boolean {
    return this.client.had >= SLICE || this.client.waiting.length > 0;
  }

  /** It has worked for so many milliseconds; another session of its client may follow. */
  worked(milliseconds: number): void {
    const { client } = this;
    client.had = this.turns.hasOne ? 0 : client.had + milliseconds;
    wakeNext(client);
  }

  [Symbol.dispose](): void {
    if (!this.#ended) this.end();
    this.#ended = true;
  }
}

/** Lets the session work that has waited the longest, if there is one and time left for it. */
function wakeNext({ had, waiting }: Client): boolean {
  if (had >= SLICE || waiting.length === 0) return false;
  waiting.shift()!();
  return true;
}
