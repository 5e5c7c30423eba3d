import type { Command } from "commander";
import { IntegrityError } from "../errors.ts";
import { exists } from "../exists.ts";
import type { ChainHead } from "../security/audit_chain.ts";
import {
  auditHeadIn,
  auditPaths,
  readAuditHead,
  readAuditKey,
} from "../security/audit_key_and_head.ts";
import { type AuditReport, verifyAudit } from "../security/audit_verify.ts";
import { outputOf } from "./output.ts";
import { examples } from "./program.ts";

interface VerifyOptions {
  readonly key?: string;
  readonly head?: string;
}

/** Adds `verbseal audit verify`. */
export function addVerifyCommand(audit: Command): void {
  audit.command("verify")
    .argument("<file...>", "audit log; with those moved away before it, the oldest first")
    .summary("find lines that were changed, removed, inserted, swapped or cut off")
    .description(
      "Check that audit logs are as the server wrote them, line by line. The first line that was " +
        "changed, removed, inserted or swapped is named, or where the end was cut off; the exit " +
        "code is 6 then. A cut is found by the head only, so it is 6 without one, too. The head is " +
        "in the file that the server's --audit-head names, and in lines `audit head` of its own log.",
    )
    .option("--key <file>", "key of the log (default: the last log's name and .key)")
    .option(
      "--head <file or line>",
      "its newest head: a file, or that line of the server's log (default: the last log's name " +
        "and .head)",
    )
    .addHelpText(
      "after",
      examples(
        ["verbseal audit verify audit.jsonl", "with audit.jsonl.key and audit.jsonl.head"],
        [
          "verbseal audit verify audit.jsonl.2 audit.jsonl.1 audit.jsonl",
          "with files that logrotate has moved away",
        ],
        [
          "verbseal audit verify audit.jsonl --key /etc/verbseal/audit.key --head kept.head --json",
          "with a head from elsewhere, for a script",
        ],
        [
          "verbseal audit verify audit.jsonl --head 'chain=… sequence=1288 mac=…'",
          "with what the server's log says of its audit head",
        ],
      ),
    )
    .action(verify);
}

async function verify(files: string[], options: VerifyOptions, command: Command): Promise<void> {
  const paths = auditPaths(files.at(-1)!, options.key, options.head);
  const head = await headOf(options.head, paths.head);
  const report = await verifyAudit(files, await readAuditKey(paths.key), head);
  if (!head) throw headMissing(paths.head, report);
  outputOf(command).result({ files, ...report }, textOf(report));
}

/** Undefined where none was named and there is no file. */
async function headOf(named: string | undefined, file: string): Promise<ChainHead | undefined> {
  if (named === undefined && !await exists(file)) return undefined;
  return auditHeadIn(named ?? "") ?? await readAuditHead(file);
}

/** Whoever cuts lines off takes the head away as well, if he can. */
function headMissing(file: string, { lines, last }: AuditReport): IntegrityError {
  return new IntegrityError(
    "audit_head_missing",
    `there is no head ${file}: ${lines} lines up to number ${last.sequence} are as the server wrote ` +
      "them, and whether others after them were cut off nobody can say",
    "Give --head the file that the server's --audit-head names, or the last line `audit head` of " +
      "its log; files that were moved away are checked together with those after them",
  );
}

function textOf(report: AuditReport): string {
  const { lines, first, last, chain, continued, tornBytes, linesAfterHead } = report;
  return [
    `OK: ${lines} lines, ${first.time} to ${last.time}, number ${first.sequence} to ` +
    `${last.sequence} of chain ${chain}`,
    ...(continued ? ["earlier lines are in other files, which were not looked at"] : []),
    ...(tornBytes > 0 ? [`${tornBytes} bytes are torn lines, as a crash leaves them`] : []),
    `the end is as the head says${linesAfterHead ? `, and ${linesAfterHead} lines are newer` : ""}`,
  ].join("\n");
}
