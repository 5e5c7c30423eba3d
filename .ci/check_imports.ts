/** Part of `deno task check`: imports follow the design's arrows, and none leads back in a circle. */
import { join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { errorText, VerbsealError } from "../lib/errors.ts";
import { exists } from "../lib/exists.ts";

/** An import of one of our modules by another; paths are relative to the repository. */
interface Import {
  from: string;
  to: string;
}

/** The design's places by height: arrows go down or stay level, and may skip heights. */
const HEIGHTS = new Map([
  ["main.ts", 7],
  ["lib/cli", 6],
  ["lib/services", 5],
  ["lib/session", 4],
  ["lib/control", 3],
  ["lib/rdma", 3],
  ["lib/security", 3],
  ["lib/tls", 3],
  // What all of lib may use, and ffi may not.
  ["lib/telemetry", 2],
  ["lib/errors.ts", 1],
  ["lib/exists.ts", 1],
  ["lib/byte_size.ts", 1],
  ["ffi", 0],
]);

/**
 * Everything that is wrong with the imports of main.ts, lib and ffi in a directory: one line each,
 * with both files and the rule. Imports of types count like all others.
 *
 * @throws VerbsealError `imports` if deno cannot read the modules
 */
export async function findImportFaults(root: string): Promise<string[]> {
  const imports = await readImports(root);
  const files = new Graph(imports);
  const places = new Graph(
    imports.map(({ from, to }) => ({ from: place(from), to: place(to) }))
      .filter(({ from, to }) => from !== to),
  );
  return imports.flatMap(({ from, to }) => {
    const rule = brokenRule(from, to) ?? circle(files, from, to) ??
      circle(places, place(from), place(to)) ?? secondProvider(imports, from, to);
    return rule === undefined ? [] : [`${from} imports ${to}: ${rule}`];
  });
}

function circle(graph: Graph, from: string, to: string): string | undefined {
  return from !== to && graph.leads(to, from) ? `${to} leads back to ${from}` : undefined;
}

function secondProvider(imports: Import[], from: string, to: string): string | undefined {
  if (provider(to) === undefined || from === "lib/rdma/provider.ts") return undefined;
  const knowsOther = imports.some((each) =>
    each.from === from && provider(each.to) !== undefined && provider(each.to) !== provider(to)
  );
  return knowsOther ? "only rdma/provider.ts knows both verbs and roce" : undefined;
}

function brokenRule(from: string, to: string): string | undefined {
  const height = HEIGHTS.get(place(from));
  const below = HEIGHTS.get(place(to));
  if (height === undefined || below === undefined) {
    return "one of the two is in no place of the design";
  }
  if (place(from) === "ffi" && place(to) !== "ffi") return "ffi imports nothing of lib";
  if (below > height) {
    return "arrows point one way, cli → services → session → {control, rdma, security, tls} → ffi";
  }
  if (place(from) === "lib/control" && place(to) === "lib/rdma") {
    return "control never imports rdma";
  }
  const providers = new Set([provider(from), provider(to)]);
  if (providers.has("verbs") && providers.has("roce")) {
    return "rdma/verbs and rdma/roce know nothing of each other";
  }
  return undefined;
}

/** Its directory below lib, or ffi; for main.ts and files of lib itself the file. */
function place(path: string): string {
  const [first = "", second = ""] = path.split("/");
  return first === "lib" ? `${first}/${second}` : first;
}

/** "verbs" or "roce" for what belongs to one of the two providers. */
function provider(path: string): string | undefined {
  return /^lib\/rdma\/(verbs|roce)\//.exec(path)?.[1];
}

/** Who imports whom, at one level of detail. */
class Graph {
  readonly #targets = new Map<string, Set<string>>();

  constructor(edges: Import[]) {
    for (const { from, to } of edges) {
      const targets = this.#targets.get(from) ?? new Set();
      this.#targets.set(from, targets.add(to));
    }
  }

  /** Whether imports lead from the one to the other, over any number of steps. */
  leads(from: string, to: string): boolean {
    const seen = new Set([from]);
    // A set that grows while it is gone through: every module reached is looked at once.
    for (const each of seen) {
      for (const target of this.#targets.get(each) ?? []) seen.add(target);
    }
    return seen.has(to);
  }
}

/** What of `deno info --json` is needed here. */
interface ModuleGraph {
  modules: {
    specifier: string;
    error?: string;
    dependencies?: { code?: { specifier?: string }; type?: { specifier?: string } }[];
  }[];
}

async function readImports(root: string): Promise<Import[]> {
  const sources = await sourceFiles(root);
  const graph = await moduleGraph(root, sources);
  const pathOf = (url: string) => relative(root, fileURLToPath(url));
  const known = new Set(sources);
  return graph.modules
    .filter(({ specifier }) => specifier.startsWith("file:") && known.has(pathOf(specifier)))
    .flatMap(({ specifier, dependencies = [] }) =>
      dependencies.flatMap(({ code, type }) => {
        const target = (code ?? type)?.specifier;
        // Other kinds of files, such as deno.json, import nothing themselves.
        if (!target?.startsWith("file:") || !target.endsWith(".ts")) return [];
        return [{ from: pathOf(specifier), to: pathOf(target) }];
      })
    );
}

/** Asks deno about all sources at once, through a module that imports them. */
async function moduleGraph(root: string, sources: string[]): Promise<ModuleGraph> {
  const index = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    const lines = sources.map((file) => `import "${pathToFileURL(join(root, file))}";\n`);
    await Deno.writeTextFile(index, lines.join(""));
    const config = join(root, "deno.json");
    const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      // Packages are of no interest here, and looking them up may need the network.
      args: ["info", "--json", "--no-npm", "--no-lock", "--config", config, index],
      stdin: "null",
    }).output();
    if (!success) throw importsError(new TextDecoder().decode(stderr));
    const graph: ModuleGraph = JSON.parse(new TextDecoder().decode(stdout));
    const broken = graph.modules.find(({ specifier, error }) =>
      specifier.startsWith("file:") && error !== undefined
    );
    if (broken?.error !== undefined) throw importsError(broken.error);
    return graph;
  } finally {
    await Deno.remove(index);
  }
}

function importsError(why: string): VerbsealError {
  return new VerbsealError("imports", `deno info cannot read the modules: ${why.trim()}`);
}

/** The program's own modules: main.ts and all below lib and ffi. */
async function sourceFiles(root: string): Promise<string[]> {
  const files: string[] = [];
  const visit = async (directory: string): Promise<void> => {
    if (!(await exists(join(root, directory)))) return;
    for await (const { name, isDirectory } of Deno.readDir(join(root, directory))) {
      const path = join(directory, name);
      if (isDirectory) await visit(path);
      else if (name.endsWith(".ts") && !name.endsWith(".d.ts")) files.push(path);
    }
  };
  await visit("lib");
  await visit("ffi");
  if (await exists(join(root, "main.ts"))) files.push("main.ts");
  return files.sort();
}

if (import.meta.main) {
  try {
    const faults = await findImportFaults(join(import.meta.dirname ?? ".", ".."));
    for (const fault of faults) console.error(fault);
    if (faults.length > 0) Deno.exit(1);
  } catch (error) {
    console.error(errorText(error));
    Deno.exit(1);
  }
}
