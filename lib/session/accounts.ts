/** Those kept at most: beyond that idle ones go, and an attacker's many names cost no more memory. */
const MOST = 65_536;

/**
 * What each of many clients has, by name. Of one that has nothing at present it is kept what it has
 * spent, until there are too many: then the one that was used the longest ago is forgotten.
 */
export class Accounts<Account> {
  /** In the order of last use. */
  readonly #accounts = new Map<string, Account>();

  /**
   * @param open makes the account of one that nothing is known of
   * @param isIdle whether one has nothing at present
   */
  constructor(
    private readonly open: () => Account,
    private readonly isIdle: (account: Account) => boolean,
  ) {}

  /** The account of that name, which is now the last used one. */
  use(name: string): Account {
    const account = this.#accounts.get(name) ?? this.open();
    this.#accounts.delete(name);
    this.#accounts.set(name, account);
    if (this.#accounts.size > MOST) this.#forgetOne(account);
    return account;
  }

  #forgetOne(used: Account): void {
    for (const [name, account] of this.#accounts) {
      if (account === used || !this.isIdle(account)) continue;
      this.#accounts.delete(name);
      return;
    }
  }
}
