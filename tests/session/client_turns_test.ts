import { assert, assertEquals } from "@std/assert";
import { ClientTurns, type SessionTurns } from "../../lib/session/client_turns.ts";

/** Clients at a thread whose rounds the test ends. */
class Scene {
  readonly #due: (() => void)[] = [];
  readonly turns = new ClientTurns((callback) => this.#due.push(callback));
  /** Sessions in the order in which they worked. */
  readonly worked: string[] = [];
  /** Who is there too: with one client alone there are no rounds. */
  readonly other = this.turns.join("other");

  /** A session that works for so long whenever it may, with no end. */
  async flood(session: SessionTurns, name: string, milliseconds: number): Promise<void> {
    for (;;) {
      await session.turn();
      this.worked.push(name);
      session.worked(milliseconds);
    }
  }

  async round(): Promise<void> {
    for (const callback of this.#due.splice(0)) callback();
    await settled();
  }

  get rounds(): number {
    return this.#due.length;
  }
}

/** Whatever is ready has gone on. */
function settled(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve));
}

function count(values: readonly string[], wanted: string): number {
  return values.filter((value) => value === wanted).length;
}

Deno.test("thirty sessions of a client have as much of a thread as the one of another", async () => {
  const scene = new Scene();
  for (let index = 0; index < 30; index++) {
    void scene.flood(scene.turns.join("many"), "many", 0.1);
  }
  void scene.flood(scene.turns.join("one"), "one", 0.1);
  await settled();
  for (let round = 0; round < 100; round++) await scene.round();
  const [many, one] = [count(scene.worked, "many"), count(scene.worked, "one")];
  assert(many > 400 && one > 400, `${many} and ${one}`);
  assert(Math.abs(many - one) <= 30, `${many} and ${one}`);
});

Deno.test("sessions of a client follow each other", async () => {
  const scene = new Scene();
  const names = ["a", "b", "c"];
  for (const name of names) void scene.flood(scene.turns.join("many"), name, 1);
  await settled();
  // Each works for two rounds' time.
  for (let round = 0; round < 60; round++) await scene.round();
  for (const name of names) assertEquals(count(scene.worked.slice(-9), name), 3);
});

Deno.test("who has worked for longer than its time sits out the rounds that it is worth", async () => {
  const scene = new Scene();
  const session = scene.turns.join("one");
  session.worked(2.4);
  let resumed = false;
  const turn = session.turn().then(() => resumed = true);
  for (let round = 1; round <= 3; round++) {
    await scene.round();
    assert(!resumed, `after ${round} rounds`);
  }
  await scene.round();
  await turn;
});

Deno.test("who is alone at a thread never waits, and owes nothing to who comes later", () => {
  const scene = new Scene();
  scene.other[Symbol.dispose]();
  const session = scene.turns.join("one");
  session.worked(1000);
  assert(!session.mustWait);
  using _other = scene.turns.join("another");
  assert(!session.mustWait);
  assertEquals(scene.rounds, 0);
});

Deno.test("who leaves and comes again owes what it owed", () => {
  const { turns } = new Scene();
  {
    using session = turns.join("one");
    session.worked(1);
  }
  assert(turns.join("one").mustWait);
});

Deno.test("a pause of the thread, which is taken for work, is owed for a moment only", async () => {
  const scene = new Scene();
  const session = scene.turns.join("one");
  session.worked(60_000);
  const turn = session.turn();
  for (let round = 0; round < 40; round++) await scene.round();
  await turn;
});

Deno.test("a session that ends waits no more, and another has its turn", async () => {
  const scene = new Scene();
  const [first, second] = [scene.turns.join("one"), scene.turns.join("one")];
  first.worked(0.6);
  const turns = [first.turn(), second.turn()];
  first[Symbol.dispose]();
  await turns[0];
  assert(!first.mustWait);
  await scene.round();
  await turns[1];
});

Deno.test("a session that ends as its turn comes leaves it to another", async () => {
  const scene = new Scene();
  const [first, second] = [scene.turns.join("one"), scene.turns.join("one")];
  first.worked(0.6);
  const turns = [first.turn(), second.turn()];
  await scene.round();
  await turns[0];
  first[Symbol.dispose]();
  await turns[1];
  assertEquals(scene.rounds, 1);
});

Deno.test("there are no rounds when nobody waits", async () => {
  const scene = new Scene();
  const session = scene.turns.join("one");
  session.worked(0.6);
  const turn = session.turn();
  await scene.round();
  await turn;
  await scene.round();
  assertEquals(scene.rounds, 0);
});
