/**
 * An attack is mounted twice: on the program as it is shipped, where it must fail, and without its
 * countermeasure, which the test takes out by handing the same code other parts: there it must
 * succeed, or the first would show nothing. README's table is made of what is declared here.
 */
import { assert } from "@std/assert";
import { isRoot } from "../../lib/security/user.ts";
import { provider, type TestProvider } from "../provider.ts";
import type { Row } from "./rows.ts";

/** What takes a countermeasure out, or why nothing does. */
export type Without<System> =
  | { readonly instead: string; readonly against: System }
  | { readonly impossible: string };

export interface Attack<System> {
  readonly rows: readonly [Row, ...Row[]];
  /** What the attacker does, as the end of "the attacker …". */
  readonly attack: string;
  readonly countermeasure: string;
  /** The only one that it is mounted on, where others meet it in another way. */
  readonly provider?: TestProvider["name"];
  /** What it is mounted on first: the program as it is shipped. */
  readonly against: System;
  readonly without: Without<System>;
  /** What it is mounted on has to be started as root, so that other users' runs leave it out. */
  readonly asRoot?: boolean;
  /** Mounts the attack, and tells whether it succeeded. */
  readonly mount: (system: System) => Promise<boolean>;
}

/** What the table shows of an attack. */
export type DeclaredAttack = Omit<Attack<unknown>, "against" | "mount" | "asRoot">;

const declared: DeclaredAttack[] = [];

/** Attacks of all modules that were imported so far. */
export function declaredAttacks(): readonly DeclaredAttack[] {
  return declared;
}

/** Declares an attack, and makes its tests. */
export function attackTest<System>(attack: Attack<System>): void {
  const { mount, against, asRoot = false, ...row } = attack;
  if (attack.provider !== undefined && attack.provider !== provider.name) return;
  declared.push(row);
  if (asRoot && !isRoot()) return;
  const name = `${row.rows.join(", ")}: the attacker ${row.attack}`;
  define(`${name}: fails`, async () => {
    assert(!await mount(against), `succeeded in spite of ${row.countermeasure}`);
  });
  const { without } = row as Attack<System>;
  if ("impossible" in without) return;
  define(`${name}: succeeds with ${without.instead}`, async () => {
    assert(await mount(without.against), `failed with ${without.instead} too`);
  });
}

/** Libraries and the thread's one wait outlive a test by a moment: see verbsTest(). */
function define(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, fn, sanitizeOps: false, sanitizeResources: false });
}
