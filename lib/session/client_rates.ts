import { Accounts } from "./accounts.ts";
import { TokenBucket } from "./token_bucket.ts";

interface Account {
  readonly rate: TokenBucket;
  sessions: number;
}

/** What all sessions of a client share: opening more of them brings no more of it, nor does coming again. */
export class ClientRates {
  readonly #accounts: Accounts<Account>;

  /**
   * @param perSecond of a client; as many again may come at once
   * @param now milliseconds, never backwards
   */
  constructor(perSecond: number, now: () => number = () => performance.now()) {
    this.#accounts = new Accounts(
      () => ({ rate: new TokenBucket(perSecond, perSecond, now), sessions: 0 }),
      ({ sessions }) => sessions === 0,
    );
  }

  /** A session of a client begins; disposing it ends it. */
  join(client: string): Disposable & { readonly rate: TokenBucket } {
    const account = this.#accounts.use(client);
    account.sessions += 1;
    let joined = true;
    return {
      rate: account.rate,
      [Symbol.dispose]: () => {
        if (!joined) return;
        joined = false;
        account.sessions -= 1;
        this.#accounts.use(client);
      },
    };
  }
}
