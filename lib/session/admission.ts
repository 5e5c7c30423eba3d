import ipaddr from "ipaddr.js";
import { RefusedError } from "../errors.ts";
import type { Limits } from "./limits.ts";

/** What one address has: sessions, and connection attempts it may make. */
interface Account {
  sessions: number;
  handshakes: number;
  attempts: number;
  updated: number;
}

/** One address may have this part of the unfinished exchanges, so that it cannot lock out all others. */
const HANDSHAKE_SHARE = 1 / 4;

/** Accounts kept at most: beyond that the idle ones go, and an attacker's addresses cost no more memory. */
const MAX_ACCOUNTS = 65536;

/** Counts a client's address: IPv4 as it is, IPv6 by its /64, which one host can have whole. */
export function accountOf(address: string): string {
  const parsed = ipaddr.process(address.replace(/%.*$/, ""));
  if (parsed.kind() === "ipv4") return parsed.toString();
  return `${
    (parsed as ipaddr.IPv6).parts.slice(0, 4).map((part) => part.toString(16)).join(":")
  }::/64`;
}

/** An identity, and how many sessions the policy lets it have at once. */
export interface SessionQuota {
  readonly identity: string;
  readonly sessions: number;
}

/** Decides who may come in. What is let in is given back by disposing it. */
export class Admission {
  readonly #accounts = new Map<string, Account>();
  /** Sessions at present, by identity. */
  readonly #identities = new Map<string, number>();
  #sessions = 0;
  #handshakes = 0;

  constructor(
    private readonly limits: Limits,
    private readonly now: () => number = () => performance.now(),
  ) {}

  /** Sessions at present. */
  get sessions(): number {
    return this.#sessions;
  }

  /**
   * A TCP connection came in; nothing has been read from it.
   *
   * @throws RefusedError when there are too many from this address or in all
   */
  connection(address: string): Disposable {
    const account = this.#account(address);
    if (account.attempts < 1) {
      throw new RefusedError(
        "connection_rate",
        `more than ${this.limits.connectionsPerSecond} connections a second from this address`,
        "try again later",
      );
    }
    account.attempts -= 1;
    if (this.#handshakes >= this.limits.handshakes) {
      throw new RefusedError(
        "handshakes",
        `${this.limits.handshakes} connections have not finished the exchange`,
        "try again later",
      );
    }
    if (account.handshakes >= Math.max(1, this.limits.handshakes * HANDSHAKE_SHARE)) {
      throw new RefusedError(
        "handshakes_per_address",
        `${account.handshakes} connections from this address have not finished the exchange`,
        "try again later",
      );
    }
    this.#handshakes += 1;
    account.handshakes += 1;
    return once(() => {
      this.#handshakes -= 1;
      account.handshakes -= 1;
    });
  }

  /**
   * A client has said HELLO and wants a session.
   *
   * @param quota of the client's identity
   * @throws RefusedError when there is no room
   */
  session(address: string, quota?: SessionQuota): Disposable {
    if (this.#sessions >= this.limits.clients) {
      throw new RefusedError(
        "clients",
        `the server has its ${this.limits.clients} clients`,
        "try again later",
      );
    }
    const account = this.#account(address);
    if (account.sessions >= this.limits.clientsPerAddress) {
      throw new RefusedError(
        "clients_per_address",
        `this address has its ${this.limits.clientsPerAddress} sessions`,
        "end another one first",
      );
    }
    const identity = quota && this.identity(quota);
    this.#sessions += 1;
    account.sessions += 1;
    return once(() => {
      this.#sessions -= 1;
      account.sessions -= 1;
      identity?.[Symbol.dispose]();
    });
  }

  /**
   * A client of this identity wants a session, whatever it is carried by.
   *
   * @throws RefusedError when the identity has as many as the policy lets it have
   */
  identity({ identity, sessions }: SessionQuota): Disposable {
    const held = this.#identities.get(identity) ?? 0;
    if (held >= sessions) {
      throw new RefusedError(
        "sessions_per_identity",
        `this identity has its ${sessions} sessions`,
        "end another one first",
      );
    }
    this.#identities.set(identity, held + 1);
    return {
      [Symbol.dispose]: () => {
        const left = this.#identities.get(identity)! - 1;
        if (left > 0) this.#identities.set(identity, left);
        else this.#identities.delete(identity);
      },
    };
  }

  #account(address: string): Account {
    const name = accountOf(address);
    const now = this.now();
    const rate = this.limits.connectionsPerSecond;
    const account = this.#accounts.get(name) ?? {
      sessions: 0,
      handshakes: 0,
      attempts: rate,
      updated: now,
    };
    account.attempts = Math.min(rate, account.attempts + rate * (now - account.updated) / 1000);
    account.updated = now;
    // The map is in the order of last use: the first ones are the longest unused.
    this.#accounts.delete(name);
    this.#accounts.set(name, account);
    if (this.#accounts.size > MAX_ACCOUNTS) this.#forgetOne();
    return account;
  }

  #forgetOne(): void {
    for (const [name, { sessions, handshakes }] of this.#accounts) {
      if (sessions > 0 || handshakes > 0) continue;
      this.#accounts.delete(name);
      return;
    }
  }
}

function once(release: () => void): Disposable {
  let released = false;
  return {
    [Symbol.dispose]() {
      if (!released) release();
      released = true;
    },
  };
}
