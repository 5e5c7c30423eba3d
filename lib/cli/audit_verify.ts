import type { Command } from "commander";
import { exists } from "../exists.ts";
import { auditPaths, readAuditHead, readAuditKey } from "../security/audit_key_and_head.ts";
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
        "code is 6 then. A cut is found by the head only: what the server keeps beside the log, or " +
        "a line `audit head` of the server's own log (--log-format json), saved to a file.",
    )
    .option("--key <file>", "key of the log (default: the last log's name and .key)")
    .option("--head <file>", "its newest head (default: the last log's name and .head, if there)")
    .addHelpText(
      "after",
      examples(
        ["verbseal audit verify audit.jsonl", "with audit.jsonl.key and audit.jsonl.head"],
        [
          "verbseal audit verify audit.jsonl.2 audit.jsonl.1 audit.jsonl",
          "with files that logrotate has moved away",
        ],
        [
          "verbseal audit verify audit.jsonl --key /etc/verbseal/audit.key --head kept.json --json",
          "with a head from elsewhere, for a script",
        ],
      ),
    )
    .action(verify);
}

async function verify(files: string[], options: VerifyOptions, command: Command): Promise<void> {
  const paths = auditPaths(files.at(-1)!, options.key, options.head);
  const known = options.head !== undefined || await exists(paths.head);
  const head = known ? await readAuditHead(paths.head) : undefined;
  const report = await verifyAudit(files, await readAuditKey(paths.key), head);
  outputOf(command).result({ files, ...report }, textOf(report, paths.head));
}

function textOf(report: AuditReport, headFile: string): string {
  const { lines, first, last, chain, continued, tornBytes, linesAfterHead } = report;
  return [
    `OK: ${lines} lines, ${first.time} to ${last.time}, number ${first.sequence} to ` +
    `${last.sequence} of chain ${chain}`,
    ...(continued ? ["earlier lines are in other files, which were not looked at"] : []),
    ...(tornBytes > 0 ? [`${tornBytes} bytes are torn lines, as a crash leaves them`] : []),
    linesAfterHead === undefined
      ? `there is no head ${headFile}: lines cut off at the end would not be missed`
      : `the end is as the head says${
        linesAfterHead > 0 ? `, and ${linesAfterHead} lines are newer` : ""
      }`,
  ].join("\n");
}
