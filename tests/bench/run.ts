/**
 * `deno task bench [NAME] [--json]`: measures Verbseal beside established programs, all or one bench,
 * on this machine and in one guest. Prints a table, or a line of JSON for each figure; how far it is
 * goes to standard error. Ends with exit code 1 if a figure is not what it has to be.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { ensurePackages } from "../../.ci/packages.ts";
import { errorText, UsageError, VerbsealError } from "../../lib/errors.ts";
import { writeText } from "../../lib/telemetry/streams.ts";
import { runInGuest } from "../vm/guest.ts";
import { fetchModules } from "../vm/modules.ts";
import { type Figure, jsonLine, passes, table } from "./figure.ts";
import { type Bench, benches } from "./registry.ts";

const root = join(import.meta.dirname!, "..", "..");
const program = "tests/bench/in_guest.ts";

/** Seconds; far more than all benches in the guest take. */
const timeout = 3000;

interface Options {
  chosen: readonly Bench[];
  json: boolean;
}

/** @throws UsageError */
function readArguments(args: string[]): Options {
  const { values, positionals } = parse(args);
  const [name] = positionals;
  const chosen = benches.filter((bench) => name === undefined || bench.name === name);
  if (positionals.length > 1 || chosen.length === 0) {
    const names = benches.map((bench) => bench.name).join(", ");
    throw new UsageError(
      "bench_unknown",
      `there is no bench ${positionals.join(" ")}`,
      `give one of ${names}, or none to run all`,
    );
  }
  return { chosen, json: values.json };
}

function parse(args: string[]) {
  try {
    return parseArgs({
      args,
      allowPositionals: true,
      options: { json: { type: "boolean", default: false } },
    });
  } catch (error) {
    throw new UsageError("usage", errorText(error), "deno task bench [NAME] [--json]");
  }
}

/** Runs benches, those for the guest in one guest for as many processors as they take. */
async function measure(chosen: readonly Bench[]): Promise<Figure[]> {
  await ensurePackages([...new Set(chosen.flatMap(({ needs }) => needs))], { why: "to measure" });
  await fetchModules(
    ...[program, "tests/bench/peer_process.ts", "tests/bench/neighbour_process.ts"],
    ...["tests/bench/tls_sessions_process.ts", "tests/bench/tls_handshakes_process.ts"],
    ...["main.ts", "lib/services/worker.ts"],
  );
  const figures: Figure[] = [];
  for (const bench of chosen.filter(({ place }) => place === "host")) {
    for await (const figure of bench.run()) figures.push(figure);
  }
  const others = chosen.filter(({ place }) => place === "guest");
  for (const [processors, alike] of Map.groupBy(others, ({ processors = 2 }) => processors)) {
    figures.push(...await measureInGuest(alike, processors));
  }
  return figures;
}

async function measureInGuest(chosen: readonly Bench[], processors: number): Promise<Figure[]> {
  const results = await Deno.makeTempDir({ prefix: "verbseal-bench-" });
  try {
    const names = chosen.map(({ name }) => name).join(" ");
    const { status } = await runInGuest({
      script: `deno run -A --no-check --cached-only ${program} ${names} >/results/figures`,
      directory: root,
      processors,
      resultDirectory: results,
      timeout,
      onConsole: (text) => writeText(Deno.stderr, text),
    });
    if (status !== 0) throw new VerbsealError("bench", `a bench ended with status ${status}`);
    const lines = (await Deno.readTextFile(join(results, "figures"))).trim().split("\n");
    return lines.map((line) => JSON.parse(line));
  } finally {
    await Deno.remove(results, { recursive: true });
  }
}

async function main(): Promise<void> {
  const { chosen, json } = readArguments(Deno.args);
  const figures = await measure(chosen);
  console.log(json ? figures.map(jsonLine).join("\n") : table(figures));
  const failed = figures.filter((figure) => !passes(figure)).map(({ bench }) => bench);
  if (failed.length > 0) throw new VerbsealError("bench", `below what it has to be: ${failed}`);
}

if (import.meta.main) {
  try {
    await main();
    // The thread's wait on its epoll descriptor may outlast the benches.
    Deno.exit();
  } catch (error) {
    const remedy = error instanceof VerbsealError && error.remedy ? `; ${error.remedy}` : "";
    console.error(`bench: ${errorText(error)}${remedy}`);
    Deno.exit(error instanceof VerbsealError ? error.exitCode : 1);
  }
}
