import { TokenBucket } from "./token_bucket.ts";

/** Clients without a session that are remembered at most: what they spent, coming again does not bring back. */
const MAX_FORMER = 65_536;

interface Account {
  readonly rate: TokenBucket;
  sessions: number;
}

/** What all sessions of a client share: opening more of them brings no more of it. */
export class ClientRates {
  /** In the order in which they last came or went. */
  readonly #accounts = new Map<string, Account>();

  /**
   * @param perSecond of a client; as many again may come at once
   * @param now milliseconds, never backwards
   */
  constructor(
    private readonly perSecond: number,
    private readonly now: () => number = () => performance.now(),
  ) {}

  /** A session of a client begins; disposing it ends it. */
  join(client: string): Disposable & { readonly rate: TokenBucket } {
    const account = this.#accounts.get(client) ??
      { rate: new TokenBucket(this.perSecond, this.perSecond, this.now), sessions: 0 };
    account.sessions += 1;
    this.#touch(client, account);
    let joined = true;
    return {
      rate: account.rate,
      [Symbol.dispose]: () => {
        if (joined) account.sessions -= 1;
        if (joined) this.#touch(client, account);
        joined = false;
      },
    };
  }

  #touch(client: string, account: Account): void {
    this.#accounts.delete(client);
    this.#accounts.set(client, account);
    if (this.#accounts.size > MAX_FORMER) this.#forgetOne();
  }

  #forgetOne(): void {
    for (const [client, { sessions }] of this.#accounts) {
      if (sessions > 0) continue;
      this.#accounts.delete(client);
      return;
    }
  }
}
