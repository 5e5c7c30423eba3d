/**
 * Makes README's table of attacks from the tests that mount them: `deno run -A readme_table.ts`
 * writes it, and with `--check` says whether it is up to date. Run by readme_table_test.ts.
 */
import { join } from "node:path";
import { type DeclaredAttack, declaredAttacks } from "./attack.ts";
import { rows } from "./rows.ts";

const directory = import.meta.dirname!;
const readme = join(directory, "..", "..", "README.md");

const BEGIN = "<!-- attacks: made by tests/attacks/readme_table.ts -->";
const END = "<!-- /attacks -->";

interface Mounted extends DeclaredAttack {
  /** The file of its test. */
  readonly file: string;
}

/** Attacks of all test files here; modules that were imported declare theirs. */
async function mountedAttacks(): Promise<Mounted[]> {
  const names = [...Deno.readDirSync(directory)].map(({ name }) => name)
    .filter((name) => name.endsWith("_test.ts") && !name.startsWith("readme_"));
  const mounted: Mounted[] = [];
  for (const file of names.sort()) {
    await import(`./${file}`);
    const added = declaredAttacks().slice(mounted.length);
    mounted.push(...added.map((attack) => ({ ...attack, file })));
  }
  return mounted;
}

/** In the order of the list of rows, by the first that an attack is of. */
function tableOf(mounted: readonly Mounted[]): string {
  const place = ({ rows: [first] }: Mounted) => rows.findIndex(([row]) => row === first);
  const lines = mounted.toSorted((one, other) => place(one) - place(other)).map(lineOf);
  return [
    "| row | the attacker … | countermeasure | taken out by | test |",
    "| --- | --- | --- | --- | --- |",
    ...lines,
  ].join("\n");
}

function lineOf({ rows, attack, countermeasure, without, file }: Mounted): string {
  const taken = "instead" in without ? without.instead : `– ${without.impossible}`;
  const name = file.replace(/_test\.ts$/, "");
  const cells = [rows.join(", "), attack, countermeasure, taken];
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
// Parts of libraries that tests load would keep this program running.
Deno.exit();
