import { addAuditCommand } from "./lib/cli/audit.ts";
import { addCertsCommand } from "./lib/cli/certs.ts";
import { addClientCommand } from "./lib/cli/client.ts";
import { addCompletionCommand } from "./lib/cli/completion.ts";
import { addDevicesCommand } from "./lib/cli/devices.ts";
import { createProgram, runProgram } from "./lib/cli/program.ts";
import { addServerCommand } from "./lib/cli/server.ts";

/** All commands of Verbseal. */
export const program = createProgram();
addServerCommand(program);
addClientCommand(program);
addCertsCommand(program);
addAuditCommand(program);
addDevicesCommand(program);
addCompletionCommand(program);

if (import.meta.main) Deno.exit(await runProgram(program, Deno.args));
