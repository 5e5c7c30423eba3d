import type { Command } from "commander";
import { UsageError } from "../errors.ts";
import { auditPaths } from "../security/audit_key_and_head.ts";
import { AuditLog } from "../security/audit_log.ts";

/** What the options of a server's audit log leave. */
export interface ServerAuditOptions {
  readonly audit?: string;
  readonly auditKey?: string;
  readonly auditHead?: string;
}

/** Adds the options of a server's audit log to its command. */
export function addServerAuditOptions(command: Command): Command {
  return command
    .option("--audit <file>", "append a line to this file for each security event")
    .option("--audit-key <file>", "key that chains them, made if missing (default: FILE.key)")
    .option(
      "--audit-head <file>",
      "where the newest line is kept, so that a cut is found: best on another disk (default: " +
        "FILE.head)",
    );
}

/**
 * Opens the audit log, if there is to be one; SIGHUP lets it go on in a new file if it was moved away.
 *
 * @throws UsageError `audit_missing` when the other options stand alone
 */
export async function openAudit(
  { audit, auditKey, auditHead }: ServerAuditOptions,
  stack: AsyncDisposableStack,
): Promise<AuditLog | undefined> {
  if (audit === undefined) {
    if (auditKey === undefined && auditHead === undefined) return undefined;
    throw new UsageError(
      "audit_missing",
      "--audit-key and --audit-head are about an audit log, and without --audit there is none",
      "Name the file with --audit",
    );
  }
  const log = stack.use(await AuditLog.open(auditPaths(audit, auditKey, auditHead)));
  const rotate = () => log.rotate();
  Deno.addSignalListener("SIGHUP", rotate);
  stack.defer(() => Deno.removeSignalListener("SIGHUP", rotate));
  return log;
}
