/**
 * @peculiar/x509 comes as two hundred CommonJS modules, and each file of tests loads them anew: ten
 * of the sixteen seconds that a file took in a guest. There it is one module.
 */
import { join } from "node:path";
import { VerbsealError } from "../../lib/errors.ts";
import config from "../../deno.json" with { type: "json" };

const root = join(import.meta.dirname!, "..", "..");
const directory = join(root, "build", "vm");
const BUNDLED = "@peculiar/x509";

/**
 * Makes the bundle.
 *
 * @returns path of an import map for `--import-map`: deno.json's, with the bundle in it
 * @throws VerbsealError `bundle` with what deno said
 */
export async function bundledImportMap(): Promise<string> {
  await Deno.mkdir(directory, { recursive: true });
  const entry = join(directory, "entry.ts");
  const bundle = join(directory, "x509.js");
  await Deno.writeTextFile(entry, `import "reflect-metadata";\nexport * from "${BUNDLED}";\n`);
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    // tslib's default condition is for a require(), which the bundle's import would find empty.
    args: ["bundle", "--quiet", "--conditions=module", "--output", bundle, entry],
    cwd: root,
    stdin: "null",
    env: { NO_COLOR: "1" },
  }).output();
  if (!success) {
    const said = new TextDecoder().decode(stderr);
    throw new VerbsealError("bundle", `${BUNDLED} cannot be bundled: ${said}`);
  }
  const map = join(directory, "import_map.json");
  const imports = { ...config.imports, [BUNDLED]: "./x509.js" };
  await Deno.writeTextFile(map, JSON.stringify({ imports }));
  return map;
}
