import type { Command } from "commander";
import { printable } from "../telemetry/printable.ts";
import type { CertificateReport, Report, RevocationListReport } from "../tls/certificate_report.ts";
import { daysUntil, warningDays } from "../tls/expiry.ts";
import { momentText } from "./moment.ts";
import { outputOf } from "./output.ts";
import { examples } from "./program.ts";

/** Adds `verbseal certs show`. */
export function addShowCommand(certs: Command): void {
  certs.command("show")
    .argument("<file...>", "certificates and lists of revoked ones, PEM")
    .summary("show what certificates say, those that expire soonest first")
    .description(
      "Show what certificates and lists of revoked certificates (CRLs) say, those that expire " +
        `soonest first, with a warning from ${warningDays} days before.`,
    )
    .addHelpText(
      "after",
      examples(
        ["verbseal certs show certs/*.pem certs/ca.crl", "all that verbseal certs init has made"],
        ["verbseal certs show --json certs/*.pem | jq 'select(.daysLeft < 30)'", "for a script"],
      ),
    )
    .action(show);
}

async function show(files: string[], _options: unknown, command: Command): Promise<void> {
  const { reportFile } = await import("../tls/certificate_report.ts");
  const reports = (await Promise.all(files.map(reportFile))).flat();
  const output = outputOf(command);
  const now = Date.now();
  for (const [index, report] of reports.sort((a, b) => endOf(a) - endOf(b)).entries()) {
    const lines = rowsOf(report, now).map(([label, text]) => `${label.padEnd(13)}${text}`);
    const separator = index === 0 ? "" : "\n";
    output.result(
      { ...report, daysLeft: Number.isFinite(endOf(report)) ? daysLeft(report, now) : null },
      separator + lines.map(printable).join("\n"),
    );
  }
}

/** When it is no longer good, in milliseconds since 1970. */
function endOf(report: Report): number {
  const end = report.kind === "certificate" ? report.notAfter : report.nextUpdate;
  return end?.getTime() ?? Infinity;
}

/** Whole days; below zero when its time is over. */
function daysLeft(report: Report, now: number): number {
  return daysUntil(new Date(endOf(report)), now);
}

type Row = [label: string, text: string];

function rowsOf(report: Report, now: number): Row[] {
  return report.kind === "certificate" ? certificateRows(report, now) : listRows(report, now);
}

function certificateRows(report: CertificateReport, now: number): Row[] {
  const { file, subject, issuer, names, key, serialNumber, use, fingerprint, pin } = report;
  const left = daysLeft(report, now);
  const early = report.notBefore.getTime() > now;
  return [
    ["expires", `${momentText(report.notAfter)}, ${leftText(left, "EXPIRED")}`],
    ...(early ? [["begins", `${momentText(report.notBefore)}: NOT VALID YET`] as Row] : []),
    ["file", file],
    ["subject", subject],
    ["issuer", issuer === subject ? "itself" : issuer],
    ["names", names.join(", ") || "none"],
    ["key", key],
    ["use", use.join(", ") || "any"],
    ["serial", serialNumber],
    ["fingerprint", fingerprint],
    ["pin", pin],
  ];
}

function listRows(report: RevocationListReport, now: number): Row[] {
  const { file, issuer, number, revoked, nextUpdate } = report;
  const due = nextUpdate === null
    ? "no date"
    : `${momentText(nextUpdate)}, ${leftText(daysLeft(report, now), "OVERDUE")}`;
  return [
    ["next update", due],
    ["file", file],
    ["issuer", issuer],
    ["list", `number ${number}, ${revoked} revoked`],
  ];
}

function leftText(days: number, over: string): string {
  if (days < 0) return over;
  const left = `${days} ${days === 1 ? "day" : "days"} left`;
  return days < warningDays ? `ONLY ${left.toUpperCase()}` : left;
}
