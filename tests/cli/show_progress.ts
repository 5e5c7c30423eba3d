/** Shows the progress of a transfer that ends at once; with --json it shows nothing. */
import { Output } from "../../lib/cli/output.ts";
import { showProgress } from "../../lib/cli/progress.ts";

using progress = showProgress(new Output(Deno.args.includes("--json")), "disk\x1b[2J.img", 4096);
progress.update(2048);
progress.update(4096);
