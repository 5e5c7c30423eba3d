import { assert, assertEquals, assertRejects } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { type Frame, makeFrame } from "../../lib/control/frame.ts";
import { decode, encode, type Message } from "../../lib/control/messages.ts";
import { LimitError, ProtocolError, RefusedError, TlsError } from "../../lib/errors.ts";
import { ControlConnection } from "../../lib/session/control_connection.ts";
import { ControlLoop, type ControlLoopOptions } from "../../lib/session/control_loop.ts";
import { tlsPair } from "./tls_pair.ts";

interface Ends {
  /** The loop under test. */
  readonly loop: ControlLoop;
  /** Its connection. */
  readonly own: ControlConnection;
  readonly peer: ControlConnection;
}

function loopTest(
  name: string,
  options: Partial<ControlLoopOptions>,
  test: (ends: Ends) => Promise<void>,
): void {
  Deno.test(name, async () => {
    await using pair = await tlsPair();
    const own = new ControlConnection(pair.near);
    const peer = new ControlConnection(pair.far);
    await test({
      loop: new ControlLoop({ connection: own, idleSeconds: 5, ...options }),
      own,
      peer,
    });
    await Promise.all([own.close(), peer.close()]);
  });
}

/** The next message from the loop that is no heartbeat. */
async function nextMessage(peer: ControlConnection): Promise<Message> {
  for (let frame = await peer.next(); frame; frame = await peer.next()) {
    const message = decode(frame);
    if (message.name !== "PING") return message;
  }
  throw new Error("the connection ended");
}

function request(id: number, body: unknown): Message {
  return { name: "REQUEST", body: { id, service: "files", body } };
}

loopTest("a PING is answered with its number", {}, async ({ loop, peer }) => {
  const running = loop.run();
  await peer.send({ name: "PING", body: { id: 77 } });
  assertEquals(await nextMessage(peer), { name: "PONG", body: { id: 77 } });
  await peer.send({ name: "BYE", body: {} });
  assertEquals(await running, "bye");
});

loopTest(
  "a request is answered with what the service gives, or with why it refuses",
  {
    onRequest: (_service, body) =>
      body === "bad"
        ? Promise.reject(new RefusedError("no", "not that"))
        : Promise.resolve({ got: body }),
  },
  async ({ loop, own, peer }) => {
    const running = loop.run();
    await peer.send(request(1, "good"));
    assertEquals(await nextMessage(peer), {
      name: "REPLY",
      body: { id: 1, body: { got: "good" } },
    });
    await peer.send(request(2, "bad"));
    assertEquals(await nextMessage(peer), {
      name: "REPLY",
      body: { id: 2, error: { code: "no", text: "not that" } },
    });
    const closing = peer.close();
    assertEquals(await running, "closed");
    await Promise.all([closing, own.close()]);
  },
);

loopTest(
  "what goes wrong inside a service stays inside",
  { onRequest: () => Promise.reject(new TypeError("secret of the inside")) },
  async ({ loop, peer }) => {
    loop.run();
    await peer.send(request(1, null));
    assertEquals(await nextMessage(peer), {
      name: "REPLY",
      body: { id: 1, error: { code: "internal", text: "internal error" } },
    });
  },
);

loopTest("replies find their requests, in whatever order they come", {}, async ({ loop, peer }) => {
  loop.run();
  const asked = [loop.request("files", "a"), loop.request("files", "b")];
  const [first, second] = [await nextMessage(peer), await nextMessage(peer)];
  for (const message of [second, first]) {
    assert(message.name === "REQUEST");
    await peer.send({ name: "REPLY", body: { id: message.body.id, body: message.body.body } });
  }
  assertEquals(await Promise.all(asked), ["a", "b"]);
});

loopTest(
  "requests without an answer end with the connection, and so do later ones",
  {},
  async ({ loop, own, peer }) => {
    const running = loop.run();
    const asked = [loop.request("files", 1), loop.request("memory", 2)];
    for (const answer of asked) answer.catch(() => {});
    const closing = peer.close();
    assertEquals(await running, "closed");
    for (const answer of asked) await assertRejects(() => answer, TlsError);
    await assertRejects(() => loop.request("files", 3), TlsError);
    await Promise.all([closing, own.close()]);
  },
);

loopTest(
  "a request on a connection that was lost fails once, and nothing else does",
  {},
  async ({ loop, own }) => {
    const running = loop.run();
    own.abort();
    // An unhandled rejection would end this test, as it would end the program.
    await assertRejects(() => loop.request("files", 1), TlsError);
    await running;
  },
);

const broken: [what: string, frame: Frame, code: string][] = [
  ["a REPLY to no request", encode({ name: "REPLY", body: { id: 9 } }), "reply"],
  ["a HELLO in the middle", makeFrame("HELLO", new Uint8Array(0)), "schema"],
  ["a READY in the middle", encode({ name: "READY", body: { epoch: 0 } }), "out_of_turn"],
  ["a REQUEST to a client", encode(request(1, null)), "out_of_turn"],
  ["a schema violation", makeFrame("PING", new TextEncoder().encode('{"id":-1}')), "schema"],
];

for (const [what, frame, code] of broken) {
  loopTest(`${what} ends the session`, {}, async ({ loop, peer }) => {
    const running = loop.run();
    await peer.sendFrame(frame);
    const error = await assertRejects(() => running, ProtocolError);
    assertEquals(error.code, code);
  });
}

loopTest("an ERROR of the peer ends the session with its reason", {}, async ({ loop, peer }) => {
  const running = loop.run();
  await peer.send({ name: "ERROR", body: { code: "reason", text: "because" } });
  const error = await assertRejects(() => running, RefusedError, "because");
  assertEquals(error.code, "reason");
});

loopTest(
  "worked() waits for requests under way, and for nothing when there is none",
  { onRequest: (_service, body) => body === "slow" ? slow.promise : Promise.resolve() },
  async ({ loop, peer }) => {
    loop.run();
    await loop.worked();
    await peer.send(request(1, "slow"));
    await peer.send(request(2, "fast"));
    assertEquals((await nextMessage(peer) as { body: { id: number } }).body.id, 2);
    let worked = false;
    const waiting = loop.worked().then(() => worked = true);
    assertEquals(worked, false);
    slow.resolve("done");
    await waiting;
    assertEquals(await nextMessage(peer), { name: "REPLY", body: { id: 1, body: "done" } });
  },
);
const slow = Promise.withResolvers<unknown>();

const answering = { onRequest: () => Promise.resolve(null) };

loopTest(
  "a peer that asks as fast as it can is answered as fast as it may",
  { ...answering, limits: { requests: 1, framesPerSecond: 50 } },
  async ({ loop, peer }) => {
    const running = loop.run();
    const started = performance.now();
    for (let id = 0; id < 100; id++) {
      await peer.send(request(id, null));
      assertEquals((await nextMessage(peer)).name, "REPLY");
    }
    const took = performance.now() - started;
    assert(took > 900, `${took} ms`);
    await peer.send({ name: "BYE", body: {} });
    assertEquals(await running, "bye");
  },
);

const slowed: string[] = [];
loopTest(
  "of a peer that has to wait it is told which limit it has hit",
  {
    ...answering,
    limits: { requests: 8, framesPerSecond: 10 },
    onSlowed: (limit) => slowed.push(limit),
  },
  async ({ loop, peer }) => {
    const running = loop.run();
    for (let id = 0; id < 10; id++) await peer.send({ name: "PING", body: { id } });
    for (let id = 0; id < 10; id++) await nextMessage(peer);
    assertEquals(slowed, []);
    await peer.send({ name: "PING", body: { id: 10 } });
    await nextMessage(peer);
    assertEquals(slowed, ["frame_rate"]);
    await peer.send({ name: "BYE", body: {} });
    assertEquals(await running, "bye");
  },
);

const slowedByBytes = Promise.withResolvers<string>();
loopTest(
  "a large frame counts as the frames of 1 KiB that it would be",
  {
    ...answering,
    idleSeconds: 1,
    limits: { requests: 8, framesPerSecond: 5 },
    onSlowed: slowedByBytes.resolve,
  },
  async ({ loop, peer }) => {
    const running = loop.run();
    await peer.send(request(1, "x".repeat(60_000)));
    assertEquals(await Promise.race([slowedByBytes.promise, running]), "frame_rate");
    await assertRejects(() => running, TlsError); // it waits for longer than it may be silent
  },
);

loopTest(
  "a peer that goes on without awaiting answers is ended",
  { limits: { requests: 1, framesPerSecond: 10 } },
  async ({ loop, peer }) => {
    const running = assertRejects(() => loop.run(), LimitError);
    const flood = (async () => {
      for (let id = 0; id < 1000; id++) await peer.send({ name: "PING", body: { id } });
    })();
    assertEquals((await deadline(running, 3000)).code, "frame_rate");
    peer.abort();
    await flood.catch(() => {});
  },
);

const held: PromiseWithResolvers<null>[] = [];
loopTest(
  "a peer has so many requests worked on at once, and is ended with one more",
  {
    onRequest: () => {
      const work = Promise.withResolvers<null>();
      held.push(work);
      return work.promise;
    },
    limits: { requests: 3, framesPerSecond: 1000 },
  },
  async ({ loop, peer }) => {
    const running = assertRejects(() => loop.run(), LimitError);
    for (let id = 0; id < 3; id++) await peer.send(request(id, null));
    await peer.send({ name: "PING", body: { id: 1 } });
    assertEquals((await nextMessage(peer)).name, "PONG");
    held[0]!.resolve(null);
    assertEquals((await nextMessage(peer)).name, "REPLY");
    await peer.send(request(3, null));
    await peer.send(request(4, null));
    assertEquals((await deadline(running, 1000)).code, "requests");
    for (const { resolve } of held) resolve(null);
  },
);

loopTest(
  "a silent peer is asked for signs of life, and given up after the idle time",
  { idleSeconds: 0.4 },
  async ({ loop, peer }) => {
    const started = performance.now();
    const error = await assertRejects(() => loop.run(), TlsError);
    assertEquals(error.code, "idle");
    const took = performance.now() - started;
    assert(took >= 400 && took < 2000, `${took} ms`);
    assertEquals((await peer.next())?.name, "PING");
  },
);

loopTest(
  "a peer that answers PINGs stays, however long it asks for nothing",
  { idleSeconds: 0.4 },
  async ({ loop, own, peer }) => {
    const answering = new ControlLoop({ connection: peer, idleSeconds: 60 }).run();
    const running = loop.run();
    await assertRejects(() => deadline(running, 1200), DOMException);
    await Promise.all([own.close(), peer.close()]);
    assertEquals(await Promise.all([running, answering]), ["closed", "closed"]);
  },
);

loopTest(
  "a peer that asks and never reads is given up after the idle time",
  { idleSeconds: 0.5 },
  async ({ loop, own, peer }) => {
    // Nobody takes from `peer`, so PONGs fill the kernel's buffers until one cannot be sent.
    const id = 2 ** 32 - 1;
    const pings = new Uint8Array(
      Array.from({ length: 500 }, () => [...encode({ name: "PING", body: { id } }).bytes]).flat(),
    );
    const frame = { ...encode({ name: "PING", body: { id } }), bytes: pings };
    let flooding = true;
    const flood = (async () => {
      while (flooding) await peer.sendFrame(frame);
    })().catch(() => {});
    assertEquals((await assertRejects(() => loop.run(), TlsError)).code, "idle");
    own.sendLast({ name: "BYE", body: {} });
    await deadline(own.close(), 3000);
    flooding = false;
    peer.abort();
    await flood;
  },
);
