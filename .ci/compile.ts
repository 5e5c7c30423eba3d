/** `deno task compile`: makes the executable build/verbseal from main.ts and its worker. */
import { join } from "node:path";
import { encodeHex } from "@std/encoding/hex";
import { format } from "@std/fmt/bytes";
import { errorText, VerbsealError } from "../lib/errors.ts";
import { exists } from "../lib/exists.ts";
import { findDenort } from "./denort.ts";

const root = join(import.meta.dirname ?? ".", "..");

/** Path of the executable that `deno task compile` makes. */
export const EXECUTABLE = join(root, "build", "verbseal");

/** Started by URL when the program runs, so no import leads to it. */
const WORKER = "lib/services/worker.ts";

/** Where the modules are put together, and under which name what is there looks for the worker: beside itself. */
const BUNDLE = join("build", "bundle");
const BUNDLED_WORKER = join(BUNDLE, "worker.ts");

/** What the executable is made of. */
const SOURCES = ["main.ts", "ffi", "lib", "deno.json", "deno.lock", ".ci/compile.ts"];

/**
 * What the executable may do. Users choose ports, certificates and files, so those are open; it
 * starts no program and sees no other variable. Files
 * in /proc and /sys cannot be opened even so: Deno wants all permissions for those.
 *
 * FFI is granted as a whole: a bare name in --allow-ffi=NAME is looked for in the current folder
 * first, which would run a library that someone planted there. Without a list the name goes to the
 * dynamic loader as it stands.
 */
const PERMISSIONS = [
  "--no-prompt",
  "--allow-ffi",
  "--allow-net",
  "--allow-read",
  "--allow-write",
  // yaml looks for LOG_STREAM and LOG_TOKENS, to show how it parses; the last is set, to tell
  // OpenSSL which module speaks to a token.
  "--allow-env=NO_COLOR,FORCE_COLOR,CLICOLOR_FORCE,DENO_TLS_CA_STORE,DENO_CERT,SSLKEYLOGFILE," +
  "HOME,XDG_CONFIG_HOME,LOG_STREAM,LOG_TOKENS,PKCS11_PROVIDER_MODULE",
  "--allow-sys=hostname,networkInterfaces,getPriority,setPriority",
];

/**
 * Where the executable does not say otherwise it runs what it finds as compiled code under a name in
 * /tmp that everybody knows, and that everybody may have written.
 */
const OWN_CODE_ALONE = "--no-code-cache";

/**
 * Bytes of stack that deno's threads have. It follows what CommonJS packages import from each other
 * by recursion, for which its default of 2 MiB is too little where none of them is in its cache yet.
 */
const STACK_BYTES = 2 ** 24;

/**
 * Makes the executable, unless it is there and made of the same sources.
 *
 * @returns one line on what was done
 * @throws VerbsealError `denort` or `compile`
 */
export async function compile(): Promise<string> {
  const stamp = `${EXECUTABLE}.sha256`;
  const digest = await sourceDigest();
  if (await exists(EXECUTABLE) && await exists(stamp)) {
    if (await Deno.readTextFile(stamp) === digest) return `${await describe()}, unchanged`;
  }
  const denort = await findDenort();
  await bundle();
  await runDeno([
    ...["compile", ...PERMISSIONS, OWN_CODE_ALONE, "--include", BUNDLED_WORKER],
    ...["--output", EXECUTABLE, join(BUNDLE, "main.js")],
  ], {
    RUST_MIN_STACK: String(STACK_BYTES),
    ...(denort.path !== undefined && { DENORT_BIN: denort.path }),
  });
  await Deno.writeTextFile(stamp, digest);
  return `${await describe()}, denort from ${denort.origin}`;
}

/**
 * Makes some dozen modules of the several hundred that there are, those of each dynamic import by
 * themselves. To find and load each took most of the time in which the program starts. A dynamic
 * import of a CommonJS package has its default export alone then: a module of our own has to be between.
 */
async function bundle(): Promise<void> {
  await Deno.remove(join(root, BUNDLE), { recursive: true }).catch((error) => {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  });
  // tslib's default condition is for a require(), which an import would find empty.
  const options = ["--quiet", "--platform=deno", "--conditions=module", "--code-splitting"];
  await runDeno(["bundle", ...options, "--outdir", BUNDLE, "main.ts", WORKER]);
  const worker = WORKER.replace(/ts$/, "js");
  await Deno.writeTextFile(join(root, BUNDLED_WORKER), `import "./${worker}";\n`);
}

/** @throws VerbsealError `compile` with what deno said */
async function runDeno(args: string[], environment: Record<string, string> = {}): Promise<void> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args,
    cwd: root,
    stdin: "null",
    env: { NO_COLOR: "1", ...environment },
  }).output();
  if (success) return;
  const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  throw new VerbsealError("compile", `deno ${args[0]} failed:\n${text.trim()}`);
}

async function describe(): Promise<string> {
  const { size } = await Deno.stat(EXECUTABLE);
  return `build/verbseal, ${format(size)}, deno ${Deno.version.deno}`;
}

async function sourceDigest(): Promise<string> {
  const parts = [Deno.version.deno, Deno.env.get("DENORT_BIN") ?? ""];
  for (const source of SOURCES) {
    for (const file of await filesUnder(source)) {
      const hash = await crypto.subtle.digest("SHA-256", await Deno.readFile(join(root, file)));
      parts.push(`${file} ${encodeHex(hash)}`);
    }
  }
  const all = new TextEncoder().encode(parts.join("\n"));
  return encodeHex(await crypto.subtle.digest("SHA-256", all));
}

/** Files below a path of the repository, in a fixed order. */
async function filesUnder(path: string): Promise<string[]> {
  if (!(await Deno.stat(join(root, path))).isDirectory) return [path];
  const entries = await Array.fromAsync(Deno.readDir(join(root, path)));
  const names = entries.map((entry) => entry.name).sort();
  return (await Promise.all(names.map((name) => filesUnder(join(path, name))))).flat();
}

if (import.meta.main) {
  try {
    console.log(await compile());
  } catch (error) {
    console.error(errorText(error));
    Deno.exit(1);
  }
}
