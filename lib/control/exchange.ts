/**
 * The exchange, as two state machines that do no I/O: messages and events go in, steps come out.
 *
 *     client                                   server
 *     START                                    AWAIT_HELLO
 *       HELLO, SECRET                     →    AWAIT_SECRET, ADMITTING
 *     AWAIT_WELCOME, AWAIT_SECRET         ←      WELCOME, SECRET     or ERROR {code, text}
 *     ALLOCATING                               ALLOCATING            (only after admission)
 *       QP                                →    AWAIT_QP
 *     AWAIT_QP                            ←      QP
 *     CONNECTING                               CONNECTING            (INIT, RTR, RTS, query and compare)
 *       READY                             ↔      READY               (nothing is sent on the QP before both)
 *     AWAIT_READY                              AWAIT_READY
 *     PROVING                                  PROVING               (PROOF as the first message, both ways)
 *     ESTABLISHED                              ESTABLISHED
 *
 * With the transport ktls a data connection takes the queue pair's place: after WELCOME and both
 * SECRETs
 *
 *     JOINING                                  JOINING               (tokens on the data connection, see join.ts)
 *       READY                             ↔      READY
 *     AWAIT_READY                              AWAIT_READY
 *     ESTABLISHED                              ESTABLISHED
 *
 * A queue pair that failed is replaced in the same session. Whoever notices says so, and from
 * there both go on as above, with the new epoch in QP and READY, fresh numbers, and other keys:
 *
 *     ESTABLISHED                              ESTABLISHED
 *       REQUEUE {epoch + 1}               →                         (or ←, or both at once)
 *     ALLOCATING                               ALLOCATING            (when the old data path is closed)
 *
 * The new one may fail before it is established: then the same happens in those states.
 */
import { createHash, type Hash } from "node:crypto";
import { encodeBase64 } from "@std/encoding/base64";
import { decodeBase64Url, encodeBase64Url } from "@std/encoding/base64url";
import { IntegrityError, ProtocolError, RefusedError, type VerbsealError } from "../errors.ts";
import type { Frame } from "./frame.ts";
import { JoinTokens } from "./join.ts";
import { type Direction, type KeyContext, KeySchedule, type SealKeys } from "./keys.ts";
import {
  type Choices,
  decode,
  encode,
  type Hello,
  type Message,
  type Provider,
  type QueuePairNumbers,
  type RdmaChoices,
  SECRET_BYTES,
  SESSION_BYTES,
  VERSION,
  type Welcome,
} from "./messages.ts";
import { type AgreedPath, agreePath } from "./path.ts";

export type ExchangeState =
  | "START"
  | "AWAIT_HELLO"
  | "AWAIT_SECRET"
  | "ADMITTING"
  | "AWAIT_WELCOME"
  | "ALLOCATING"
  | "AWAIT_QP"
  | "CONNECTING"
  | "JOINING"
  | "AWAIT_READY"
  | "PROVING"
  | "ESTABLISHED";

/** What the owner of a state machine has to do next, in this order. */
export type Step =
  | { readonly do: "send"; readonly frame: Frame }
  /** Server: decide, then call {@linkcode ServerExchange.admitted}. */
  | { readonly do: "admit"; readonly hello: Hello }
  /** The queue pair is of no use any more: close the data path, another one takes its place. */
  | { readonly do: "discard"; readonly by: Direction; readonly reason: string }
  /** Create protection domain, regions, queues and queue pair, draw a PSN, then call `allocated`. */
  | { readonly do: "allocate"; readonly welcome: Welcome; readonly choices: RdmaChoices }
  /** Bring the queue pair to RTS with exactly these numbers, compare, then call `connected`. */
  | {
    readonly do: "connect";
    readonly local: QueuePairNumbers;
    readonly remote: QueuePairNumbers;
    readonly path: AgreedPath;
    /** The owner's from then on, to wipe; without it the session is not sealed. */
    readonly seal?: SealKeys;
    /** Private data of a CM connection request. */
    readonly cmToken: Uint8Array;
  }
  /** Send `own` as the first message of the queue pair, await `expected` as the first received, then call `proved`. */
  | { readonly do: "prove"; readonly own: Uint8Array; readonly expected: Uint8Array }
  /** Data connections of this session may come; the tokens are the owner's from then on. */
  | { readonly do: "link"; readonly welcome: Welcome; readonly tokens: JoinTokens }
  /** Make or await the first data connection, then call `joined`. */
  | { readonly do: "join" }
  | { readonly do: "established" };

/** Random bytes; a parameter so that tests are repeatable. */
export type RandomBytes = (length: number) => Uint8Array<ArrayBuffer>;

/** In memory that is not moved, as it would be in JavaScript's heap, so that a SECRET can be wiped. */
const cryptographic: RandomBytes = (length) =>
  crypto.getRandomValues(new Uint8Array(new ArrayBuffer(length)));

/** Codes of what a server found in the records that came, which it does not refuse but cannot use. */
const integrityCodes: ReadonlySet<string> = new Set([
  "record_forged",
  "record_replayed",
  "record_out_of_order",
]);

/**
 * What an ERROR means: to a client, that the server refuses, or cannot use what came. A client's code is its own affair and
 * must not read like a finding of the server's.
 */
export function peerError(
  side: "client" | "server",
  { code, text }: { readonly code: string; readonly text: string },
): VerbsealError {
  if (side === "server") {
    return new ProtocolError("client_error", `the client gave up: ${code}: ${text}`);
  }
  return integrityCodes.has(code)
    ? new IntegrityError(code, `the server says: ${text}`)
    : new RefusedError(code, text);
}

/** Disposing it wipes what keys are made of: it lasts as long as the session. */
abstract class Exchange implements Disposable {
  #state: ExchangeState;
  #epoch = 0;
  /** The peer may not have seen our REQUEUE yet: what it sends may be of an earlier epoch. */
  #overtaking = false;
  #keys: KeySchedule | undefined;
  readonly #transcript: Hash = createHash("sha256");
  protected readonly random: RandomBytes;
  protected readonly secret: Uint8Array<ArrayBuffer>;
  protected peerSecret: Uint8Array | undefined;
  protected local: QueuePairNumbers | undefined;
  protected welcome: Welcome | undefined;
  #tokens: { proof: Uint8Array; expected: Uint8Array } | undefined;

  constructor(
    readonly side: Direction,
    start: ExchangeState,
    random: RandomBytes = cryptographic,
  ) {
    this.#state = start;
    this.random = random;
    this.secret = random(SECRET_BYTES);
  }

  get state(): ExchangeState {
    return this.#state;
  }

  get peer(): Direction {
    return this.side === "client" ? "server" : "client";
  }

  /** Counts the session's queue pairs, the first being 0. */
  get epoch(): number {
    return this.#epoch;
  }

  /** This side's queue pair has failed, in ESTABLISHED or while it took the place of another. */
  requeue(reason: string): Step[] {
    const told = this.#send({ name: "REQUEUE", body: { epoch: this.#epoch + 1, reason } });
    const steps = [told, ...this.#replace(this.side, reason)];
    this.#overtaking = true;
    return steps;
  }

  [Symbol.dispose](): void {
    this.#keys?.[Symbol.dispose]();
    this.secret.fill(0);
    this.peerSecret?.fill(0);
  }

  /**
   * Takes a frame from the peer.
   *
   * @throws ProtocolError when it is not the one whose turn it is, or violates its schema
   * @throws RefusedError when the server sent ERROR
   */
  receive(frame: Frame): Step[] {
    const message = decode(frame);
    if (message.name === "ERROR") throw peerError(this.side, message.body);
    if (this.#isOvertaken(message)) return [];
    if (message.name === "REQUEUE" && this.#isReplaceable) return this.#requeued(message);
    if (message.name === "READY" && this.#state === "AWAIT_READY") return this.#ready(message);
    const steps = this.take(message, frame);
    if (steps) return steps;
    throw new ProtocolError("out_of_turn", `${message.name} in state ${this.#state}`);
  }

  /** Who moves this side's packets, and the peer's: known once RDMA is chosen. */
  protected abstract get provider(): Provider;
  protected abstract get peerProvider(): Provider;

  /** The queue pair is there, with a fresh PSN. */
  abstract allocated(local: QueuePairNumbers): Step[];

  /** The queue pair is in RTS and its PSNs are those agreed. */
  connected(): Step[] {
    this.enter("CONNECTING", "AWAIT_READY");
    return [this.#send({ name: "READY", body: { epoch: this.#epoch } })];
  }

  /** The first data connection is there, and both tokens are right. */
  joined(): Step[] {
    this.enter("JOINING", "AWAIT_READY");
    return [this.#send({ name: "READY", body: { epoch: this.#epoch } })];
  }

  /** Both proofs are right. */
  proved(): Step[] {
    this.enter("PROVING", "ESTABLISHED");
    return [{ do: "established" }];
  }

  /** Handles what is this side's own; undefined for a message out of turn. */
  protected abstract take(message: Message, frame: Frame): Step[] | undefined;

  /** Goes from one state to the next; being in another one is an error of the caller. */
  protected enter(from: ExchangeState, to: ExchangeState): void {
    if (this.#state !== from) throw new Error(`exchange is in ${this.#state}, not ${from}`);
    this.#state = to;
  }

  /** Sends a message that the keys will depend on. */
  protected sendRecorded(message: Message): Step {
    const step = this.#send(message);
    this.record(step.frame);
    return step;
  }

  protected record(frame: Frame): void {
    this.#transcript.update(frame.bytes);
  }

  /** Both QP messages are known and recorded: derives what depends on all frames so far. */
  protected connect(remote: QueuePairNumbers): Step {
    const local = this.local!;
    if (remote.epoch !== this.#epoch) {
      throw new ProtocolError("epoch", `QP of epoch ${remote.epoch}, not ${this.#epoch}`);
    }
    const path = agreePath(
      { provider: this.provider, numbers: local },
      { provider: this.peerProvider, numbers: remote },
    );
    const isClient = this.side === "client";
    const context: KeyContext = {
      epoch: this.#epoch,
      qpns: {
        client: isClient ? local.qpn : remote.qpn,
        server: isClient ? remote.qpn : local.qpn,
      },
    };
    const keys = this.#keys ??= this.#deriveKeys();
    const seal = this.#sealKeys(keys, context);
    this.#tokens = {
      proof: keys.token("proof", this.side, context),
      expected: keys.token("proof", isClient ? "server" : "client", context),
    };
    return {
      do: "connect",
      local,
      remote,
      path,
      ...(seal ? { seal } : {}),
      cmToken: keys.token("cm", "client", context),
    };
  }

  /** Both SECRETs and WELCOME are known and recorded: derives what data connections are known by. */
  protected link(): Step {
    return {
      do: "link",
      welcome: this.welcome!,
      tokens: new JoinTokens(this.#deriveKeys(), this.side),
    };
  }

  /** What comes after WELCOME and both SECRETs. */
  protected transport(welcome: Welcome): { state: ExchangeState; step: Step } {
    const { choices } = welcome;
    return choices.transport === "rdma"
      ? { state: "ALLOCATING", step: { do: "allocate", welcome, choices } }
      : { state: "JOINING", step: { do: "join" } };
  }

  #sealKeys(keys: KeySchedule, context: KeyContext): SealKeys | undefined {
    const { session, choices } = this.welcome!;
    const { seal: cipher } = choices as RdmaChoices;
    if (cipher === "off") return undefined;
    return {
      cipher,
      session: decodeBase64Url(session),
      epoch: context.epoch,
      own: keys.key("seal", this.side, context),
      peer: keys.key("seal", this.peer, context),
    };
  }

  /** Wipes both secrets. */
  #deriveKeys(): KeySchedule {
    const isClient = this.side === "client";
    return new KeySchedule(
      isClient ? this.secret : this.peerSecret!,
      isClient ? this.peerSecret! : this.secret,
      this.#transcript.copy().digest(),
    );
  }

  /** The first queue pair was established. */
  get #isReplaceable(): boolean {
    const { state, welcome } = this;
    return welcome?.choices.transport === "rdma" && (state === "ESTABLISHED" || this.#epoch > 0);
  }

  #requeued({ body: { epoch, reason } }: Message & { name: "REQUEUE" }): Step[] {
    if (epoch === this.#epoch + 1) return this.#replace(this.peer, reason);
    throw new ProtocolError("epoch", `REQUEUE of epoch ${epoch} in epoch ${this.#epoch}`);
  }

  #replace(by: Direction, reason: string): Step[] {
    if (!this.#isReplaceable) throw new Error(`no queue pair is replaced in ${this.#state}`);
    this.#epoch += 1;
    this.#state = "ALLOCATING";
    this.#tokens = undefined;
    const welcome = this.welcome!;
    const choices = welcome.choices as RdmaChoices;
    return [{ do: "discard", by, reason }, { do: "allocate", welcome, choices }];
  }

  /** What the peer said before it saw our REQUEUE, also a REQUEUE of its own, means nothing any more. */
  #isOvertaken(message: Message): boolean {
    if (!this.#overtaking) return false;
    if (message.name !== "QP" && message.name !== "READY" && message.name !== "REQUEUE") {
      return false;
    }
    const { epoch } = message.body;
    if (epoch < this.#epoch) return true;
    this.#overtaking = false;
    return message.name === "REQUEUE" && epoch === this.#epoch;
  }

  #ready(message: Message & { name: "READY" }): Step[] {
    if (message.body.epoch !== this.#epoch) {
      throw new ProtocolError("epoch", `READY of epoch ${message.body.epoch}`);
    }
    if (!this.#tokens) {
      this.enter("AWAIT_READY", "ESTABLISHED");
      return [{ do: "established" }];
    }
    this.enter("AWAIT_READY", "PROVING");
    const { proof, expected } = this.#tokens;
    return [{ do: "prove", own: proof, expected }];
  }

  #send(message: Message): Step & { do: "send" } {
    return { do: "send", frame: encode(message) };
  }
}

/** The client's side of the exchange. */
export class ClientExchange extends Exchange {
  readonly #hello: Omit<Hello, "version" | "nonce">;

  constructor(hello: Omit<Hello, "version" | "nonce">, random?: RandomBytes) {
    super("client", "START", random);
    this.#hello = hello;
  }

  protected get provider(): Provider {
    return offeredProvider(this.#hello);
  }

  protected get peerProvider(): Provider {
    return chosenProvider(this.welcome!.choices);
  }

  start(): Step[] {
    this.enter("START", "AWAIT_WELCOME");
    const nonce = encodeBase64(this.random(SECRET_BYTES));
    return [
      this.sendRecorded({ name: "HELLO", body: { version: VERSION, nonce, ...this.#hello } }),
      this.sendRecorded({ name: "SECRET", body: this.secret }),
    ];
  }

  allocated(local: QueuePairNumbers): Step[] {
    this.enter("ALLOCATING", "AWAIT_QP");
    this.local = local;
    return [this.sendRecorded({ name: "QP", body: local })];
  }

  protected take(message: Message, frame: Frame): Step[] | undefined {
    if (message.name === "WELCOME" && this.state === "AWAIT_WELCOME") {
      this.#checkChoices(message.body);
      this.record(frame);
      this.welcome = message.body;
      this.enter("AWAIT_WELCOME", "AWAIT_SECRET");
      return [];
    }
    if (message.name === "SECRET" && this.state === "AWAIT_SECRET") {
      this.record(frame);
      this.peerSecret = message.body;
      const { state, step } = this.transport(this.welcome!);
      this.enter("AWAIT_SECRET", state);
      return state === "JOINING" ? [this.link(), step] : [step];
    }
    if (message.name === "QP" && this.state === "AWAIT_QP") {
      this.record(frame);
      this.enter("AWAIT_QP", "CONNECTING");
      return [this.connect(message.body)];
    }
    return undefined;
  }

  #checkChoices({ choices }: Welcome): void {
    const { offers } = this.#hello;
    const kept = offers.transports.includes(choices.transport) &&
      (choices.transport !== "rdma" || (
        offers.connect?.includes(choices.connect) && offers.seal?.includes(choices.seal)
      )) &&
      choices.services.every((service) => offers.services.includes(service));
    if (!kept) throw new ProtocolError("choices", "the server chose what was not offered");
  }
}

/** The server's side of the exchange. */
export class ServerExchange extends Exchange {
  #hello: Hello | undefined;

  constructor(random?: RandomBytes) {
    super("server", "AWAIT_HELLO", random);
  }

  protected get provider(): Provider {
    return chosenProvider(this.welcome!.choices);
  }

  protected get peerProvider(): Provider {
    return offeredProvider(this.#hello!);
  }

  /** The client may go on, under these conditions. */
  admitted(conditions: Pick<Welcome, "choices" | "limits">): Step[] {
    this.welcome = {
      version: VERSION,
      session: encodeBase64Url(this.random(SESSION_BYTES)),
      nonce: encodeBase64(this.random(SECRET_BYTES)),
      ...conditions,
    };
    const { state, step } = this.transport(this.welcome);
    this.enter("ADMITTING", state);
    const answer = [
      this.sendRecorded({ name: "WELCOME", body: this.welcome }),
      this.sendRecorded({ name: "SECRET", body: this.secret }),
    ];
    // The client may be at the door before its welcome counts as sent.
    return state === "JOINING" ? [this.link(), ...answer, step] : [...answer, step];
  }

  allocated(local: QueuePairNumbers): Step[] {
    this.enter("ALLOCATING", "AWAIT_QP");
    this.local = local;
    return [];
  }

  protected take(message: Message, frame: Frame): Step[] | undefined {
    if (message.name === "HELLO" && this.state === "AWAIT_HELLO") {
      this.record(frame);
      this.#hello = message.body;
      this.enter("AWAIT_HELLO", "AWAIT_SECRET");
      return [];
    }
    if (message.name === "SECRET" && this.state === "AWAIT_SECRET") {
      this.record(frame);
      this.peerSecret = message.body;
      this.enter("AWAIT_SECRET", "ADMITTING");
      return [{ do: "admit", hello: this.#hello! }];
    }
    if (message.name === "QP" && this.state === "AWAIT_QP") {
      this.record(frame);
      const own = this.sendRecorded({ name: "QP", body: this.local! });
      this.enter("AWAIT_QP", "CONNECTING");
      return [own, this.connect(message.body)];
    }
    return undefined;
  }
}

/** Messages bear it where RDMA is offered, as their schema checks. */
function offeredProvider({ offers }: Pick<Hello, "offers">): Provider {
  return offers.providers![0];
}

function chosenProvider(choices: Choices): Provider {
  return (choices as RdmaChoices).provider;
}
