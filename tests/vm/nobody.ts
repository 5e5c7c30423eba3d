import { executable, recordsOf, type Run } from "../program.ts";

/**
 * Runs the program as a user without any privilege.
 *
 * @param limits options of prlimit(1)
 */
export async function runAsNobody(limits: string[], args: string[]): Promise<Run> {
  const nobody = [
    "--reuid",
    "65534",
    "--regid",
    "65534",
    "--clear-groups",
    "--bounding-set",
    "-all",
  ];
  const { code, stdout, stderr } = await new Deno.Command("setpriv", {
    args: [...nobody, "prlimit", ...limits, executable, ...args],
    cwd: "/",
  }).output();
  const decoder = new TextDecoder();
  const records = args.includes("--json") ? recordsOf(decoder.decode(stdout)) : [];
  return { status: code, stdout, stderr: decoder.decode(stderr), records };
}
