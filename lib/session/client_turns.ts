import { afterRound } from "../rdma/breather.ts";
import { Accounts } from "./accounts.ts";

/** Milliseconds of a thread that all sessions of a client have together in a round. */
const SLICE = 0.5;

/** What a client owes at most, in milliseconds: a pause of the whole thread is not its doing. */
const MOST_OWED = 20;

/** One client at a thread. */
interface Client {
  sessions: number;
  /** Milliseconds that it has had since it has last waited, and owes: a session's work is not cut short. */
  had: number;
  /** What lets its sessions go on that wait, the first one first. */
  waiting: { readonly session: SessionTurns; readonly wake: () => void }[];
}

/**
 * Shares a thread among clients, not among sessions: who has opened more of them has more that wait for
 * each other. A round is one of the thread's event loop, in which whatever is ready has its turn.
 */
export class ClientTurns {
  readonly #clients = new Accounts<Client>(
    () => ({ sessions: 0, had: 0, waiting: [] }),
    ({ sessions }) => sessions === 0,
  );
  /** Those of whom a session waits. */
  readonly #waiting = new Set<Client>();
  /** Those that have a session. */
  #present = 0;

  /** @param next calls back when all has had its turn that is ready now */
  constructor(private readonly next: (callback: () => void) => void = afterRound) {}

  /** A session of a client begins; disposing it ends it. */
  join(name: string): SessionTurns {
    const client = this.#clients.use(name);
    if (client.sessions === 0) this.#present += 1;
    client.sessions += 1;
    return new SessionTurns(client, this);
  }

  /** A session ends that has joined. */
  leave(client: Client): void {
    client.sessions -= 1;
    if (client.sessions === 0) this.#present -= 1;
  }

  /** Whether a client could take another's time: rounds cost something, and one alone has none. */
  get areShared(): boolean {
    return this.#present > 1;
  }

  /** Resolves in a later round, or when the session ends. */
  wait(client: Client, session: SessionTurns): Promise<void> {
    if (this.#waiting.size === 0) this.next(this.#nextRound);
    this.#waiting.add(client);
    return new Promise((wake) => client.waiting.push({ session, wake }));
  }

  #nextRound = () => {
    for (const client of this.#waiting) {
      client.had = Math.max(0, client.had - SLICE);
      wakeNext(client);
      if (client.waiting.length === 0) this.#waiting.delete(client);
    }
    if (this.#waiting.size > 0) this.next(this.#nextRound);
  };
}

/** What a session has of a thread. */
export class SessionTurns implements Disposable {
  #ended = false;

  constructor(
    private readonly client: Client,
    private readonly turns: ClientTurns,
  ) {}

  /** Resolves when it may work: at once, unless all sessions of the client have had their time. */
  async turn(): Promise<void> {
    if (this.mustWait) await this.turns.wait(this.client, this);
  }

  /** Whether {@linkcode turn} would not resolve at once; never when it has ended. */
  get mustWait(): boolean {
    const { had, waiting } = this.client;
    return !this.#ended && (had >= SLICE || waiting.length > 0);
  }

  /** It has worked for so many milliseconds; another session of its client may follow. */
  worked(milliseconds: number): void {
    const { client, turns } = this;
    client.had = turns.areShared ? Math.min(MOST_OWED, client.had + milliseconds) : 0;
    wakeNext(client);
  }

  /** What waits of it goes on at once, to end. */
  [Symbol.dispose](): void {
    if (this.#ended) return;
    this.#ended = true;
    const { client } = this;
    this.turns.leave(client);
    for (const { wake } of client.waiting.filter(({ session }) => session === this)) wake();
    client.waiting = client.waiting.filter(({ session }) => session !== this);
    // It may have been its turn, and it uses none.
    wakeNext(client);
  }
}

/** Lets the session work that has waited the longest, if there is one and time left for it. */
function wakeNext({ had, waiting }: Client): void {
  if (had < SLICE) waiting.shift()?.wake();
}
