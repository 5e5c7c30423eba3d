import type { Command } from "commander";
import { addVerifyCommand } from "./audit_verify.ts";
import { examples } from "./program.ts";

/** Adds `verbseal audit` and its command. */
export function addAuditCommand(program: Command): void {
  const audit = program.command("audit")
    .summary("check audit logs")
    .description("Check the audit logs that verbseal server --audit writes.")
    .addHelpText(
      "after",
      examples(["verbseal audit verify audit.jsonl", "is it as the server wrote it?"]),
    );
  addVerifyCommand(audit);
}
