import { join } from "node:path";
import { VerbsealError } from "../../lib/errors.ts";

const root = join(import.meta.dirname!, "..", "..");

/**
 * Fetches what programs import: a guest has no network, and runs them with `--cached-only`.
 *
 * @param programs paths relative to the repository
 * @throws VerbsealError `modules` with what deno said
 */
export async function fetchModules(...programs: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["cache", "--quiet", ...programs],
    cwd: root,
    stdin: "null",
    env: { NO_COLOR: "1" },
  }).output();
  if (success) return;
  throw new VerbsealError(
    "modules",
    `modules cannot be fetched: ${new TextDecoder().decode(stderr)}`,
    "check that the npm registry can be reached",
  );
}
