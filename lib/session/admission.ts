import ipaddr from "ipaddr.js";
import { LimitError } from "../errors.ts";
import { Accounts } from "./accounts.ts";
import { ClientRates } from "./client_rates.ts";
import { CountedReports } from "./counted_reports.ts";
import type { Limits } from "./limits.ts";
import { Turns } from "./turns.ts";

/** What one address has: sessions, and connection attempts it may make. */
interface Account {
  sessions: number;
  messageClients: number;
  /** Bytes that these hold. */
  heldBytes: number;
  handshakes: number;
  attempts: number;
  updated: number;
  /** When its next session may begin. */
  sessionDue: number;
}

/** One address may have this part of the unfinished exchanges, so that it cannot lock out all others. */
const HANDSHAKE_SHARE = 1 / 4;

/** And this part of what requests of plain clients may hold. */
export const MESSAGE_MEMORY_SHARE = 1 / 4;

/** All sessions of a client may send so many times the control frames of one. */
export const FRAME_SHARE = 4;

/** Counts a client's address: IPv4 as it is, IPv6 by its /64, which one host can have whole. */
export function accountOf(address: string): string {
  const parsed = ipaddr.process(address.replace(/%.*$/, ""));
  if (parsed.kind() === "ipv4") return parsed.toString();
  return `${
    (parsed as ipaddr.IPv6).parts.slice(0, 4).map((part) => part.toString(16)).join(":")
  }::/64`;
}

/** An identity, and how many sessions it may have at once. */
export interface SessionQuota {
  readonly identity: string;
  readonly sessions: number;
}

/** What a session takes of its device. */
export interface DeviceShare {
  readonly device: string;
  /** Sessions that the device has room for. */
  readonly room: number;
}

/** What a session is to have. */
export interface SessionClaim {
  readonly quota: SessionQuota;
  /** Bytes that are set aside for its registered memory. */
  readonly registeredBytes: number;
  /** Undefined where it needs no device. */
  readonly device?: DeviceShare | undefined;
}

/** What a client of the message service for plain TLS clients has. */
export interface MessageClientPlace extends Disposable {
  /**
   * It holds so many bytes more, or less, until it is disposed.
   *
   * @throws LimitError when there is no room for more; it is as if nothing had been asked
   */
  hold(change: number): void;
}

/** Decides who may come in. What is let in is given back by disposing it. */
export class Admission {
  /** Of limits that clients hit, here and later. */
  readonly reports: CountedReports;
  /** Control frames of sessions. */
  readonly frameRates: ClientRates;
  /** Queue pairs of sessions that are replaced. */
  readonly replacementRates: ClientRates;
  /** Fragments of messages of plain TLS clients. */
  readonly messageRates: ClientRates;
  /** By address. */
  readonly #accounts: Accounts<Account>;
  /** Sessions at present, by identity. */
  readonly #identities = new Map<string, number>();
  readonly #devices = new Map<string, number>();
  readonly #turns = new Turns();
  #sessions = 0;
  #handshakes = 0;
  #messageClients = 0;
  #registeredBytes = 0;
  #heldBytes = 0;

  constructor(
    private readonly limits: Limits,
    private readonly now: () => number = () => performance.now(),
  ) {
    this.reports = new CountedReports(now);
    this.#accounts = new Accounts(
      () => ({
        sessions: 0,
        messageClients: 0,
        heldBytes: 0,
        handshakes: 0,
        attempts: limits.connectionsPerSecond,
        updated: now(),
        sessionDue: -Infinity,
      }),
      ({ sessions, messageClients, handshakes }) => sessions + messageClients + handshakes === 0,
    );
    this.frameRates = new ClientRates(FRAME_SHARE * limits.framesPerSecond, now);
    this.replacementRates = new ClientRates(limits.sessionsPerSecond, now);
    this.messageRates = new ClientRates(limits.messagesPerSecond, now);
  }

  /** Sessions at present. */
  get sessions(): number {
    return this.#sessions;
  }

  /** Connections at present that have not finished the exchange. */
  get handshakes(): number {
    return this.#handshakes;
  }

  /** Clients at present of the message service for plain TLS clients. */
  get messageClients(): number {
    return this.#messageClients;
  }

  /** Bytes set aside at present for memory that sessions register. */
  get registeredBytes(): number {
    return this.#registeredBytes;
  }

  /**
   * A TCP connection came in; nothing has been read from it.
   *
   * @throws LimitError when there are too many from this address or in all
   */
  connection(address: string): Disposable {
    const account = this.#account(address);
    if (account.attempts < 1) {
      throw new LimitError(
        "connection_rate",
        `more than ${this.limits.connectionsPerSecond} connections a second from this address`,
        "try again later",
      );
    }
    account.attempts -= 1;
    if (this.#handshakes >= this.limits.handshakes) {
      throw new LimitError(
        "handshakes",
        `${this.limits.handshakes} connections have not finished the exchange`,
        "try again later",
      );
    }
    if (account.handshakes >= Math.max(1, this.limits.handshakes * HANDSHAKE_SHARE)) {
      throw new LimitError(
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
   * A client is to have a session, which costs much to begin: one of an address that begins many waits.
   *
   * @returns milliseconds until then
   * @throws LimitError when that takes more than half the time of an exchange; it is as if nobody had come
   */
  sessionDelay(address: string): number {
    const account = this.#account(address);
    // Not by a TokenBucket, which after a pause lets in twice what may come at once.
    const { handshakes, handshakeSeconds, sessionsPerSecond } = this.limits;
    const pause = 1000 / sessionsPerSecond;
    const saved = Math.max(0, handshakes * HANDSHAKE_SHARE - 1) * pause;
    const now = this.now();
    const due = Math.max(account.sessionDue, now - saved);
    if (due - now > handshakeSeconds * 1000 / 2) {
      throw new LimitError(
        "session_rate",
        `this address begins more than ${sessionsPerSecond} sessions a second`,
        "try again later",
      );
    }
    account.sessionDue = due + pause;
    return Math.max(0, due - now);
  }

  /** A client has left before its {@linkcode sessionDelay} was over: the next one need not wait for it. */
  sessionGivenUp(address: string): void {
    this.#account(address).sessionDue -= 1000 / this.limits.sessionsPerSecond;
  }

  /**
   * A client has said HELLO and wants a session; nothing has been allocated for it.
   *
   * @throws LimitError when there is no room
   */
  session(address: string, { quota, registeredBytes, device }: SessionClaim): Disposable {
    const { clients, clientsPerAddress, registeredBytesInAll } = this.limits;
    if (this.#sessions >= clients) {
      throw new LimitError("clients", `the server has its ${clients} clients`, "try again later");
    }
    const account = this.#account(address);
    if (account.sessions >= clientsPerAddress) {
      throw new LimitError(
        "clients_per_address",
        `this address has its ${clientsPerAddress} sessions`,
        "end another one first",
      );
    }
    if (this.#registeredBytes + registeredBytes > registeredBytesInAll) {
      throw new LimitError(
        "registered_memory_in_all",
        `the server's sessions have the ${registeredBytesInAll} bytes that they may register`,
        "try again later",
      );
    }
    using building = new DisposableStack();
    building.use(this.#identity(quota));
    if (device) building.use(this.#device(device));
    this.#sessions += 1;
    account.sessions += 1;
    this.#registeredBytes += registeredBytes;
    building.defer(() => {
      this.#sessions -= 1;
      account.sessions -= 1;
      this.#registeredBytes -= registeredBytes;
    });
    return building.move();
  }

  /**
   * A client of the message service for plain TLS clients.
   *
   * @throws LimitError when its address or identity has as many as it may have
   */
  messageClient(address: string, quota: SessionQuota): MessageClientPlace {
    const account = this.#account(address);
    const { messageClientsPerAddress } = this.limits;
    if (account.messageClients >= messageClientsPerAddress) {
      throw new LimitError(
        "message_clients_per_address",
        `this address has its ${messageClientsPerAddress} message clients`,
        "end another one first",
      );
    }
    using building = new DisposableStack();
    building.use(this.#identity(quota));
    this.#messageClients += 1;
    account.messageClients += 1;
    building.defer(() => {
      this.#messageClients -= 1;
      account.messageClients -= 1;
    });
    let held = 0;
    const hold = (change: number) => {
      this.#hold(account, change);
      held += change;
    };
    building.defer(() => hold(-held));
    const place = building.move();
    return { hold, [Symbol.dispose]: () => place.dispose() };
  }

  #hold(account: Account, change: number): void {
    const { messageMemory } = this.limits;
    const full = this.#heldBytes + change > messageMemory ||
      account.heldBytes + change > messageMemory * MESSAGE_MEMORY_SHARE;
    if (change > 0 && full) {
      throw new LimitError(
        "message_memory",
        "requests that have not come in full hold the memory that they may",
        "send shorter ones, or try again later",
      );
    }
    this.#heldBytes += change;
    account.heldBytes += change;
  }

  #identity({ identity, sessions }: SessionQuota): Disposable {
    return claim(
      this.#identities,
      identity,
      sessions,
      () =>
        new LimitError(
          "sessions_per_identity",
          `this identity has its ${sessions} sessions`,
          "end another one first",
        ),
    );
  }

  /**
   * Does work, one after the other for each address: what takes long, as it does where a client names
   * a GID that nobody answers for, must not keep many threads busy for one.
   */
  inTurn<T>(address: string, work: () => Promise<T>): Promise<T> {
    return this.#turns.take(accountOf(address), work);
  }

  #device({ device, room }: DeviceShare): Disposable {
    return claim(
      this.#devices,
      device,
      room,
      () =>
        new LimitError(
          "device_full",
          `the server's device has room for ${room} sessions, and has them`,
          "try again later",
        ),
    );
  }

  #account(address: string): Account {
    const account = this.#accounts.use(accountOf(address));
    const now = this.now();
    const rate = this.limits.connectionsPerSecond;
    account.attempts = Math.min(rate, account.attempts + rate * (now - account.updated) / 1000);
    account.updated = now;
    return account;
  }
}

/** Takes one of `most` places that `name` has in `held`. */
function claim(
  held: Map<string, number>,
  name: string,
  most: number,
  refusal: () => LimitError,
): Disposable {
  const before = held.get(name) ?? 0;
  if (before >= most) throw refusal();
  held.set(name, before + 1);
  return once(() => {
    const left = held.get(name)! - 1;
    if (left > 0) held.set(name, left);
    else held.delete(name);
  });
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
