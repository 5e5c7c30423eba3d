import { assertEquals, assertRejects } from "@std/assert";
import { encodeJoin, JOIN_BYTES, JoinTokens } from "../../lib/control/join.ts";
import { KeySchedule } from "../../lib/control/keys.ts";
import { IntegrityError, ProtocolError, TlsError } from "../../lib/errors.ts";
import { DataDialer } from "../../lib/session/data_dialer.ts";
import { Joins } from "../../lib/session/joins.ts";
import { readExactly } from "../../lib/session/read_exactly.ts";
import type { DataConnection } from "../../lib/tls/data_connection.ts";
import { dataPair, type TlsPair } from "./tls_pair.ts";

// Deno's check for leaks wants libraries and their callbacks there before the first test.
await (await dataPair())[Symbol.asyncDispose]();

const session = "A".repeat(22);

function tokens(side: "client" | "server"): JoinTokens {
  const secret = () => new Uint8Array(32).fill(1);
  return new JoinTokens(new KeySchedule(secret(), secret(), new Uint8Array(32)), side);
}

/** Connections of both ends; all are closed when it is disposed. */
class Scene implements AsyncDisposable {
  readonly joins = new Joins();
  readonly #pairs: TlsPair<DataConnection>[] = [];

  async pair(): Promise<TlsPair<DataConnection>> {
    const pair = await dataPair();
    this.#pairs.push(pair);
    return pair;
  }

  /** The server's end of a connection on which this JOIN came. */
  async take(epoch: number, token: Uint8Array): Promise<string> {
    const { near, far } = await this.pair();
    await far.write(encodeJoin({ session, epoch, token }));
    return await this.joins.take(near);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#pairs.map((pair) => pair[Symbol.asyncDispose]()));
  }
}

Deno.test("a dialer's connections come to the session that waits, epoch after epoch", async () => {
  await using scene = new Scene();
  using expected = scene.joins.expect(session, tokens("server"));
  using dialer = new DataDialer(session, tokens("client"), async () => {
    const { near, far } = await scene.pair();
    scene.joins.take(near);
    return far;
  });
  for (let epoch = 0; epoch < 3; epoch++) {
    // The session need not wait yet when its connection comes.
    const ours = await dialer.next();
    const theirs = await expected.next();
    await theirs.write(Uint8Array.of(epoch));
    assertEquals(await readExactly(ours, 1), Uint8Array.of(epoch));
  }
});

Deno.test("a token serves once, for its epoch, and only while the session lasts", async () => {
  await using scene = new Scene();
  const expected = scene.joins.expect(session, tokens("server"));
  using client = tokens("client");
  const refused = async (epoch: number, token: Uint8Array) => {
    const taking = scene.take(epoch, token);
    return (await assertRejects(() => taking, Error)) as ProtocolError | IntegrityError;
  };
  assertEquals((await refused(0, client.own(1))).code, "join_token");
  assertEquals((await refused(1, client.own(1))).code, "join_epoch");
  assertEquals(await scene.take(0, client.own(0)), session);
  assertEquals((await refused(0, client.own(0))).code, "join_epoch");
  await expected.next();
  assertEquals((await refused(0, client.own(0))).code, "join_epoch");
  assertEquals(await scene.take(1, client.own(1)), session);
  const waiting = expected.next().then(() => expected.next());
  const ended = assertRejects(() => waiting, TlsError, "has ended");
  await new Promise((done) => setTimeout(done));
  expected[Symbol.dispose]();
  await ended;
  assertEquals((await refused(2, client.own(2))).code, "join_session");
});

Deno.test("a connection that nobody has taken up ends with its session", async () => {
  await using scene = new Scene();
  const expected = scene.joins.expect(session, tokens("server"));
  const { near, far } = await scene.pair();
  using client = tokens("client");
  await far.write(encodeJoin({ session, epoch: 0, token: client.own(0) }));
  await scene.joins.take(near);
  expected[Symbol.dispose]();
  await readExactly(far, 32);
  await assertRejects(() => readExactly(far, 1), TlsError);
});

Deno.test("a connection is nobody's whose session ends as it is answered", async () => {
  await using scene = new Scene();
  const expected = scene.joins.expect(session, tokens("server"));
  const { near, far } = await scene.pair();
  using client = tokens("client");
  await far.write(encodeJoin({ session, epoch: 0, token: client.own(0) }));
  const write = near.write.bind(near);
  near.write = async (bytes) => {
    await write(bytes);
    expected[Symbol.dispose]();
  };
  await assertRejects(() => scene.joins.take(near), TlsError, "the session has ended");
});

Deno.test("a client does not go on with a server that has not its session's keys", async () => {
  await using scene = new Scene();
  const { near, far } = await scene.pair();
  using dialer = new DataDialer(session, tokens("client"), () => Promise.resolve(far));
  const answer = readExactly(near, JOIN_BYTES).then(() => near.write(new Uint8Array(32)));
  const error = await assertRejects(() => dialer.next(), IntegrityError);
  assertEquals(error.code, "join_token");
  await answer;
});

Deno.test("a dialer that is disposed waits for no answer", async () => {
  await using scene = new Scene();
  const { near, far } = await scene.pair();
  const dialer = new DataDialer(session, tokens("client"), () => Promise.resolve(far));
  const ended = assertRejects(() => dialer.next(), TlsError, "the session has ended");
  await readExactly(near, JOIN_BYTES);
  dialer[Symbol.dispose]();
  await ended;
});
