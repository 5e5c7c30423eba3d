/**
 * Makes README's table of attacks from the tests that mount them: `deno run -A readme_table.ts`
 * writes it, and with `--check` says whether it is up to date. Run by readme_table_test.ts.
 */
import { join } from "node:path";
import type { MountedAttack } from "./declared_attacks.ts";
import { rows } from "./rows.ts";

const directory = import.meta.dirname!;
const readme = join(directory, "..", "..", "README.md");

const BEGIN = "<!-- attacks: made by tests/attacks/readme_table.ts -->";
const END = "<!-- /attacks -->";

/** What the table calls the providers, and VERBSEAL_TEST_PROVIDER of the tests that are about each. */
const providers = [["embedded", "roce"], ["rxe", "verbs"]] as const;

/** An attack, and on what it is mounted. */
interface Mounted extends MountedAttack {
  readonly providers: string[];
}

/** Attacks of all test files here; what is the same on both providers is one. */
async function mountedAttacks(): Promise<Mounted[]> {
  const mounted = new Map<string, Mounted>();
  for (const [name, provider] of providers) {
    for (const attack of await declaredAttacks(provider)) {
      const key = JSON.stringify(attack);
      const known = mounted.get(key) ?? { ...attack, providers: [] };
      known.providers.push(name);
      mounted.set(key, known);
    }
  }
  return [...mounted.values()];
}

/** A process for each provider: tests are about one for the life of theirs. */
async function declaredAttacks(provider: string): Promise<MountedAttack[]> {
  const { success, stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", join(directory, "declared_attacks.ts")],
    env: { VERBSEAL_TEST_PROVIDER: provider },
    stdin: "null",
    stderr: "inherit",
  }).output();
  if (!success) throw new Error(`the attacks on ${provider} cannot be told`);
  return JSON.parse(new TextDecoder().decode(stdout));
}

/** In the order of the list of rows, by the first that an attack is of. */
function tableOf(mounted: readonly Mounted[]): string {
  const place = ({ rows: [first] }: Mounted) => rows.findIndex(([row]) => row === first);
  const lines = mounted.toSorted((one, other) => place(one) - place(other)).map(lineOf);
  return [
    "| row | the attacker … | countermeasure | taken out by | provider | test |",
    "| --- | --- | --- | --- | --- | --- |",
    ...lines,
  ].join("\n");
}

function lineOf(mounted: Mounted): string {
  const { rows, attack, countermeasure, takenOutBy, providers, file } = mounted;
  const name = file.replace(/_test\.ts$/, "");
  const cells = [rows.join(", "), attack, countermeasure, takenOutBy, providers.join(", ")];
  return `| ${cells.join(" | ")} | [${name}](tests/attacks/${file}) |`;
}

/** As `deno fmt` would write it. */
async function formatted(markdown: string): Promise<string> {
  const config = join(directory, "..", "..", "deno.json");
  const child = new Deno.Command(Deno.execPath(), {
    args: ["fmt", "--ext", "md", "--config", config, "-"],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(markdown));
  await writer.close();
  const { success, stdout } = await child.output();
  if (!success) throw new Error("deno fmt failed");
  return new TextDecoder().decode(stdout);
}

const mounted = await mountedAttacks();
const missing = rows.filter(([row]) => !mounted.some((attack) => attack.rows.includes(row)));
if (missing.length > 0) {
  console.error(`no test mounts: ${missing.map((row) => row.join(" ")).join("; ")}`);
  Deno.exitCode = 1;
}
const before = await Deno.readTextFile(readme);
const [start, end] = [before.indexOf(BEGIN), before.indexOf(END)];
if (start < 0 || end < start) throw new Error(`README.md has no ${BEGIN} and ${END}`);
const table = `${BEGIN}\n\n${tableOf(mounted)}\n\n`;
const after = await formatted(before.slice(0, start) + table + before.slice(end));
if (!Deno.args.includes("--check")) await Deno.writeTextFile(readme, after);
else if (after !== before) {
  console.error("README.md is not up to date: deno run -A tests/attacks/readme_table.ts");
  Deno.exitCode = 1;
}
