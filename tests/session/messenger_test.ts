import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { createHash } from "node:crypto";
import { Buffer } from "node:buffer";
import fc from "fast-check";
import type { Memory } from "../../ffi/memory.ts";
import type { ProtectionDomain } from "../../lib/rdma/protection_domain.ts";
import { ProtocolError, VerbsealError } from "../../lib/errors.ts";
import type { RecordSeal } from "../../lib/security/seal.ts";
import {
  FRAGMENT_BYTES,
  Messenger,
  type MessengerOptions,
  payloadBytes,
} from "../../lib/session/messenger.ts";
import { TokenBucket } from "../../lib/session/token_bucket.ts";
import { WorkRequestId } from "../../lib/session/work_request_id.ts";
import { Opcode, SendFlag } from "../../lib/rdma/work_request.ts";
import { SealedPair } from "../security/sealed_pair.ts";
import { type ReliableEnd, ReliablePair, verbsTest } from "../rdma/resources.ts";

const RECEIVES = 8;
const MESSAGE_BYTES = 2 ** 20;

interface Received {
  readonly kind: number;
  readonly id: number;
  readonly bytes: number;
  readonly hash: string;
}

function hashOf(body: Uint8Array): string {
  return createHash("sha256").update(body).digest("hex");
}

/** One side: a messenger on an end, and what came. */
class Side implements Disposable {
  readonly received: Received[] = [];
  /** What the device could read or write. */
  readonly registered: Memory[] = [];
  readonly messenger: Messenger;
  #arrival = Promise.withResolvers<void>();

  constructor(
    readonly end: ReliableEnd,
    options: Partial<MessengerOptions> = {},
    seal?: RecordSeal,
  ) {
    this.messenger = new Messenger({
      protectionDomain: this.#recording(end.protectionDomain),
      queuePair: end.queuePair,
      receives: RECEIVES,
      messageBytes: MESSAGE_BYTES,
      maxQueuedBytes: Infinity,
      onMessage: (kind, id, body) => {
        this.received.push({ kind, id, bytes: body.length, hash: hashOf(body) });
        this.#arrival.resolve();
        this.#arrival = Promise.withResolvers<void>();
      },
      ...options,
    });
    if (seal) this.messenger.sealWith(seal);
    this.messenger.postReceives();
  }

  #recording(protectionDomain: ProtectionDomain): ProtectionDomain {
    return {
      registerMemory: (memory, ...rest) => {
        this.registered.push(memory);
        return protectionDomain.registerMemory(memory, ...rest);
      },
      createQueuePair: (options) => protectionDomain.createQueuePair(options),
      [Symbol.dispose]: () => protectionDomain[Symbol.dispose](),
    };
  }

  /** Takes completions until the queue is disposed. */
  async pump(): Promise<void> {
    const { queue } = this.end;
    for (let count = await queue.next(); count > 0; count = await queue.next()) {
      for (let index = 0; index < count; index++) {
        if (!queue.completions.succeeded(index)) throw queue.completions.error(index);
        const id = queue.completions.wrId(index);
        if (WorkRequestId.isReceive(id)) {
          this.messenger.receiveCompleted(
            WorkRequestId.slot(id),
            queue.completions.byteLength(index),
          );
        } else this.messenger.sendCompleted();
      }
    }
  }

  async receivedCount(count: number): Promise<void> {
    while (this.received.length < count) await this.#arrival.promise;
  }

  [Symbol.dispose](): void {
    this.messenger[Symbol.dispose]();
  }
}

const messages = fc.array(
  fc.record({
    kind: fc.integer({ min: 1, max: 255 }),
    id: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
    bytes: fc.oneof(
      fc.constantFrom(0, 1, FRAGMENT_BYTES - 16, FRAGMENT_BYTES - 15, 300_000),
      fc.constantFrom(payloadBytes(true), payloadBytes(true) + 1),
      fc.integer({ min: 0, max: 40_000 }),
    ),
  }),
  { maxLength: 30 },
);

function send(side: Side, sent: { kind: number; id: number; bytes: number }[]): Received[] {
  return sent.map(({ kind, id, bytes }) => {
    const body = new Uint8Array(bytes);
    for (let at = 0; at < bytes; at += 65536) {
      crypto.getRandomValues(body.subarray(at, Math.min(bytes, at + 65536)));
    }
    const hash = hashOf(body);
    side.messenger.send(kind, id, body);
    body.fill(0); // the messenger must have taken what it needs
    return { kind, id, bytes, hash };
  });
}

for (const how of ["sealed", "as they are"]) {
  verbsTest(
    `messages of any size arrive whole and in order, both ways at once, within the credits, ${how}`,
    async () => await arriveWhole(how === "sealed"),
  );
}

async function arriveWhole(sealed: boolean): Promise<void> {
  await fc.assert(
    fc.asyncProperty(messages, messages, async (toServer, toClient) => {
      using pair = new ReliablePair();
      using seals = new SealedPair();
      using client = new Side(
        pair.client,
        {},
        sealed ? seals.client.channel("messages") : undefined,
      );
      using server = new Side(
        pair.server,
        {},
        sealed ? seals.server.channel("messages") : undefined,
      );
      client.messenger.grant(RECEIVES);
      server.messenger.grant(RECEIVES);
      const pumps = Promise.all([client.pump(), server.pump()]);
      const fromClient = send(client, toServer);
      const fromServer = send(server, toClient);
      await Promise.race([
        pumps,
        Promise.all([
          server.receivedCount(fromClient.length),
          client.receivedCount(fromServer.length),
        ]),
      ]);
      assertEquals(server.received, fromClient);
      assertEquals(client.received, fromServer);
      pumps.catch(() => {}); // they end with their queues, when the pair does
    }),
    { numRuns: 15 },
  );
}

verbsTest(
  "what was sealed stands nowhere in the memory that is sent, nor what was opened",
  async () => {
    using pair = new ReliablePair();
    using seals = new SealedPair();
    using client = new Side(pair.client, {}, seals.client.channel("messages"));
    using server = new Side(pair.server, {}, seals.server.channel("messages"));
    client.messenger.grant(RECEIVES);
    const pumps = Promise.all([client.pump(), server.pump()]);
    const text = "plain text that must not be seen";
    client.messenger.send(7, 1, new TextEncoder().encode(text.repeat(1000)));
    await Promise.race([pumps, server.receivedCount(1)]);
    assertEquals(server.received[0]?.bytes, 1000 * text.length);
    const registered = [...client.registered, ...server.registered];
    assertEquals(registered.length, 4);
    for (const { bytes } of registered) assertEquals(Buffer.from(bytes.buffer).indexOf(text), -1);
    pumps.catch(() => {}); // they end with their queues, when the pair does
  },
);

verbsTest("a fragment that does not follow the one before is refused", () => {
  using pair = new ReliablePair();
  using side = new Side(pair.client);
  side.messenger.grant(RECEIVES);
  // Nothing was received: the buffer is zeroed, and shorter than a fragment's header.
  assertThrows(() => side.messenger.receiveCompleted(0, 15), ProtocolError, "15 bytes");
});

verbsTest("a peer that is too fast gets its credits back as fast as it may send", async () => {
  const [perSecond, burst, count] = [10, 4, 100];
  let milliseconds = 0;
  let timer: number | undefined;
  using pair = new ReliablePair();
  using client = new Side(pair.client);
  using server: Side = new Side(pair.server, {
    rate: new TokenBucket(perSecond, burst, () => milliseconds),
    onTooFast: (wait) => {
      timer = setTimeout(() => {
        milliseconds += wait;
        server.messenger.resume();
      });
    },
  });
  client.messenger.grant(RECEIVES);
  server.messenger.grant(RECEIVES);
  const pumps = Promise.all([client.pump(), server.pump()]);
  const sent = send(client, Array.from({ length: count }, (_, id) => ({ kind: 1, id, bytes: 5 })));
  await Promise.race([pumps, server.receivedCount(count)]);
  clearTimeout(timer);
  assertEquals(server.received, sent);
  // Besides what may come at once it had its credits.
  const least = (count - 2 * burst - RECEIVES) / perSecond;
  assert(milliseconds >= least * 1000, `${milliseconds} ms`);
  pumps.catch(() => {});
});

/** What becomes of fragments that a peer sends without looking at its credits. */
async function flood(count: number, kind: number, payload: number): Promise<unknown> {
  // As often as it takes: the server may not have posted its receives again yet.
  using pair = new ReliablePair({ retries: { rnrRetry: 7 } });
  using server = new Side(pair.server);
  server.messenger.grant(0); // who has none can return none
  const { sends, memory, region, queuePair } = pair.client;
  memory.bytes[0] = kind;
  memory.bytes[1] = 1;
  memory.bytes[11] = payload;
  const pump = server.pump();
  for (let sent = 0; sent < count; sent++) {
    sends.prepare(0, 0, Opcode.SEND, SendFlag.SIGNALED)
      .buffer(0, region.address, 16 + payload, region.lkey);
    queuePair.postSend(sends);
    if (await Promise.race([pair.client.status(), pump]) === undefined) break;
  }
  return await deadline(Promise.race([pump, server.receivedCount(count)]), 5000);
}

verbsTest("a fragment for which the peer has no credit is refused", async () => {
  await flood(RECEIVES, 1, 3);
  const error = await assertRejects(() => flood(RECEIVES + 1, 1, 3), ProtocolError);
  assertEquals(error.code, "credits");
});

verbsTest("a message of credits that returns none is refused", async () => {
  const error = await assertRejects(() => flood(1, 0, 0), ProtocolError);
  assertEquals(error.code, "credits");
});

verbsTest("a message larger than agreed is not sent", () => {
  using pair = new ReliablePair();
  using side = new Side(pair.client);
  assertThrows(
    () => side.messenger.send(1, 1, new Uint8Array(MESSAGE_BYTES + 1)),
    VerbsealError,
    "1048577 bytes",
  );
});
