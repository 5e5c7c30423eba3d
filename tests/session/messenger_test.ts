import { assertEquals, assertThrows } from "@std/assert";
import { createHash } from "node:crypto";
import fc from "fast-check";
import { ProtocolError, VerbsealError } from "../../lib/errors.ts";
import { FRAGMENT_BYTES, Messenger } from "../../lib/session/messenger.ts";
import { WorkRequestId } from "../../lib/session/work_request_id.ts";
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
  readonly messenger: Messenger;
  #arrival = Promise.withResolvers<void>();

  constructor(readonly end: ReliableEnd) {
    this.messenger = new Messenger({
      protectionDomain: end.protectionDomain,
      queuePair: end.queuePair,
      receives: RECEIVES,
      messageBytes: MESSAGE_BYTES,
      maxQueuedBytes: Infinity,
      onMessage: (kind, id, body) => {
        this.received.push({ kind, id, bytes: body.length, hash: hashOf(body) });
        this.#arrival.resolve();
        this.#arrival = Promise.withResolvers<void>();
      },
    });
    this.messenger.postReceives();
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

verbsTest(
  "messages of any size arrive whole and in order, both ways at once, within the credits",
  async () => {
    await fc.assert(
      fc.asyncProperty(messages, messages, async (toServer, toClient) => {
        using pair = new ReliablePair();
        using client = new Side(pair.client);
        using server = new Side(pair.server);
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
  },
);

verbsTest("a fragment that does not follow the one before is refused", () => {
  using pair = new ReliablePair();
  using side = new Side(pair.client);
  side.messenger.grant(RECEIVES);
  // Nothing was received: the buffer is zeroed, and shorter than a fragment's header.
  assertThrows(() => side.messenger.receiveCompleted(0, 15), ProtocolError, "15 bytes");
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
