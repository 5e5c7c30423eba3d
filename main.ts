import { addCertsCommand } from "./lib/cli/certs.ts";
import { createProgram, runProgram } from "./lib/cli/program.ts";

/** All commands of Verbseal. */
export const program = createProgram();
addCertsCommand(program);

if (import.meta.main) Deno.exit(await runProgram(program, Deno.args));
