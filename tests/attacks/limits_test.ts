/** Attacks that take more than a server gives to one session, address or identity, or in all. */
import { RefusedError } from "../../lib/errors.ts";
import type { Client } from "../../lib/services/client.ts";
import { Admission } from "../../lib/session/admission.ts";
import { ClientRates } from "../../lib/session/client_rates.ts";
import { ClientTurns } from "../../lib/session/client_turns.ts";
import { defaultLimits, type Limits } from "../../lib/session/limits.ts";
import { MESSAGE_BYTES } from "../../lib/session/messenger.ts";
import { TokenBucket } from "../../lib/session/token_bucket.ts";
import type { HostileClient } from "../session/hostile_client.ts";
import { attackTest } from "./attack.ts";
import { grant, withdraw } from "./lent_memory.ts";
import { clientAuthority, clientCertificate, System, type SystemOptions } from "./system.ts";

const stolen = await clientCertificate("stolen");
const victims = await clientCertificate("victim");

/** Sessions that the attacker wants, and has where half as many are all there are. */
const WANTED = 6;
const ALLOWED = 3;
const REGISTERED = MESSAGE_BYTES + 65536;

const sessionLimits: readonly [
  how: string,
  countermeasure: string,
  limits: Partial<Limits>,
  unlimited?: Partial<Limits>,
][] = [
  ["from one address", "sessions of an address are limited", { clientsPerAddress: ALLOWED }],
  ["with one stolen certificate", "sessions of an identity are limited", {
    clientsPerIdentity: ALLOWED,
  }],
  ["until nobody else may", "sessions in all are limited", { clients: ALLOWED }],
  [
    "until all memory is pinned",
    "registered bytes in all are limited, and set aside for each session when it is admitted",
    { registeredBytes: REGISTERED, registeredBytesInAll: ALLOWED * REGISTERED },
    { registeredBytes: REGISTERED },
  ],
];

for (const [how, countermeasure, limits, unlimited = {}] of sessionLimits) {
  attackTest<Partial<Limits>>({
    rows: ["6.4.1"],
    attack: `opens one session after the other ${how}`,
    countermeasure,
    provider: "roce",
    against: limits,
    without: { instead: "admission without that limit", against: unlimited },
    async mount(limits) {
      await using system = await System.start({
        limits,
        clientAuthentication: { trust: { authorities: [clientAuthority] }, required: true },
      });
      await using sessions = new AsyncDisposableStack();
      for (let count = 0; count < WANTED; count++) {
        try {
          sessions.use(await system.client({ identity: stolen }));
        } catch (error) {
          if (!(error instanceof RefusedError) || count < ALLOWED) throw error;
          return false;
        }
      }
      return true;
    },
  });
}

/** Grants a second, and what the attacker asks for: of so many two seconds' come at once, and the others in turn. */
const GRANTS_A_SECOND = 2;
const GRANTS = 14;
/** Milliseconds: less than all of them take with the limit. */
const AT_ONCE = 3000;

attackTest<SystemOptions>({
  rows: ["6.4.4"],
  attack: "asks for one grant after the other, as fast as it can",
  countermeasure: "a limit on grants: who exceeds it is slowed down",
  provider: "roce",
  against: { limits: { grantsPerSecond: GRANTS_A_SECOND } },
  without: { instead: "a rate that nobody reaches", against: {} },
  async mount(options) {
    await using system = await System.start(options);
    using attacker = await system.hostile();
    const started = performance.now();
    for (let count = 0; count < GRANTS; count++) {
      await grant(attacker, "write", 0, 4096);
      await withdraw(attacker);
    }
    return performance.now() - started < AT_ONCE;
  },
});

/** Control frames a second of a session; in one go of all sessions of the attacker, and then a second. */
const FRAMES_A_SECOND = 5;
/** Sessions of the attacker, and frames of each: more than come at once, and of one they take a second. */
const CROWD = 16;
const FRAMES = 10;
/** Milliseconds: less than all of them take where they share a rate, and more than each alone takes. */
const EACH_ALONE = 3000;

const frameLimits = { framesPerSecond: FRAMES_A_SECOND };

/** What the server has where more sessions may do more. */
function eachByItself(): Admission {
  const frameRates = {
    join: () => ({ rate: new TokenBucket(Infinity), [Symbol.dispose]() {} }),
  } as unknown as ClientRates;
  return Object.assign(new Admission({ ...defaultLimits, ...frameLimits }), { frameRates });
}

attackTest<SystemOptions>({
  rows: ["6.4.4"],
  attack: "sends control frames in many sessions, in each as many as it may",
  countermeasure: "all sessions of a client share a rate",
  provider: "roce",
  against: { limits: frameLimits },
  without: {
    instead: "sessions that have a rate each, and no other",
    against: { limits: frameLimits, admission: eachByItself() },
  },
  async mount(options) {
    await using system = await System.start(options);
    using attackers = new DisposableStack();
    const crowd: HostileClient[] = [];
    while (crowd.length < CROWD) crowd.push(attackers.use(await system.hostile()));
    const started = performance.now();
    await Promise.all(crowd.map(async (attacker) => {
      for (let id = 0; id < FRAMES; id++) {
        await attacker.send({ name: "PING", body: { id } });
        await attacker.hear("PONG");
      }
    }));
    return performance.now() - started < EACH_ALONE;
  },
});

/** Queue pairs that a client may have replaced a second; as many come at once before. */
const REPLACED_A_SECOND = 4;
/** Of each of four sessions; with the limit all together take three seconds and more. */
const REPLACEMENTS = 4;

/** Milliseconds: less than they take with the limit. */
const REPLACED_AT_ONCE = 2500;

const replacementLimits = { sessionsPerSecond: REPLACED_A_SECOND };

attackTest<SystemOptions>({
  rows: ["6.4.4"],
  attack: "has its queue pairs replaced again and again, in many sessions",
  countermeasure: "all sessions of a client share a rate",
  provider: "roce",
  against: { limits: replacementLimits },
  without: {
    instead: "a rate that nobody reaches",
    against: {
      limits: replacementLimits,
      admission: Object.assign(new Admission({ ...defaultLimits, ...replacementLimits }), {
        replacementRates: new ClientRates(Infinity),
      }),
    },
  },
  async mount(options) {
    await using system = await System.start(options);
    using attackers = new DisposableStack();
    const crowd: HostileClient[] = [];
    while (crowd.length < 4) crowd.push(attackers.use(await system.hostile()));
    const started = performance.now();
    await Promise.all(crowd.map(async (attacker) => {
      for (let epoch = 1; epoch <= REPLACEMENTS; epoch++) {
        await attacker.send({ name: "REQUEUE", body: { epoch, reason: "because" } });
        await attacker.send({ name: "QP", body: { ...attacker.numbers.local, epoch } });
        await attacker.hear("READY");
      }
    }));
    return performance.now() - started < REPLACED_AT_ONCE;
  },
});

/** Questions that each session asks at once, and milliseconds that the thread takes for each. */
const QUESTIONS = 16;
const WORK = 1;

/** Takes a while for each question, and tells whose it was. */
function laborious(served: (owner: string) => void): NonNullable<SystemOptions["services"]> {
  return (definitions) =>
    definitions.map((definition) => ({
      ...definition,
      start(access) {
        const service = definition.start(access);
        return {
          message(...message) {
            const until = performance.now() + WORK;
            while (performance.now() < until);
            served(access.owner!);
            service.message?.(...message);
          },
          [Symbol.asyncDispose]: () => service[Symbol.asyncDispose](),
        };
      },
    }));
}

attackTest<Pick<SystemOptions, "turns">>({
  rows: ["6.4.4"],
  attack: "asks in many sessions at once, as much as it may in each",
  countermeasure: "a thread is shared among clients, whatever number of sessions each has",
  provider: "roce",
  against: {},
  without: {
    instead: "turns of each session by itself",
    against: {
      turns: { join: () => new ClientTurns().join("") } as unknown as ClientTurns,
    },
  },
  async mount({ turns }) {
    const served: string[] = [];
    await using system = await System.start({
      ...(turns ? { turns } : {}),
      services: laborious((owner) => served.push(owner)),
      clientAuthentication: { trust: { authorities: [clientAuthority] }, required: true },
    });
    await using clients = new AsyncDisposableStack();
    const honest = clients.use(await system.client({ identity: victims }));
    const crowd: Client[] = [];
    while (crowd.length < CROWD) {
      crowd.push(clients.use(await system.client({ identity: stolen })));
    }
    const answers = [...crowd, honest].map(({ messages }) =>
      Promise.all(
        Array.from({ length: QUESTIONS }, () => messages.ask("ECHO", new Uint8Array(1))),
      )
    );
    await answers.at(-1);
    const others = served.length - QUESTIONS;
    await Promise.all(answers);
    // Its share of the time would be as much as the honest one's; some was done before that came.
    return others > CROWD * QUESTIONS / 2;
  },
});
