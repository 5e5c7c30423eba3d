/**
 * Prints as JSON the attacks that the tests here mount on one provider: with VERBSEAL_TEST_PROVIDER,
 * as for the tests themselves, those on rdma_rxe.
 */
import { sameWithEither } from "../run.ts";
import { provider } from "../provider.ts";
import { declaredAttacks } from "./attack.ts";
import type { Row } from "./rows.ts";

/** An attack, as the table shows it. */
export interface MountedAttack {
  readonly rows: readonly [Row, ...Row[]];
  readonly attack: string;
  readonly countermeasure: string;
  /** What takes the countermeasure out, or why nothing does. */
  readonly takenOutBy: string;
  /** The file of its test. */
  readonly file: string;
}

/** Test files here that are run with this provider: the guest leaves out what is the same without a device. */
function testFiles(): string[] {
  return [...Deno.readDirSync(import.meta.dirname!)].map(({ name }) => name)
    .filter((name) => name.endsWith("_test.ts") && !name.startsWith("readme_"))
    .filter((name) => provider.name === "roce" || !sameWithEither(`tests/attacks/${name}`))
    .sort();
}

/** Modules that are imported declare their attacks. */
async function mountedAttacks(): Promise<MountedAttack[]> {
  const mounted: MountedAttack[] = [];
  for (const file of testFiles()) {
    await import(`./${file}`);
    for (const { without, ...attack } of declaredAttacks().slice(mounted.length)) {
      const takenOutBy = "instead" in without ? without.instead : `– ${without.impossible}`;
      mounted.push({ ...attack, takenOutBy, file });
    }
  }
  return mounted;
}

if (import.meta.main) {
  // Outside of `deno test` Deno.test() does nothing, and its hooks are not there.
  Object.assign(Deno.test, { beforeAll() {}, afterAll() {} });
  console.log(JSON.stringify(await mountedAttacks()));
  // Parts of libraries that tests load would keep this program running.
  Deno.exit();
}
